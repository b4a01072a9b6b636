"""`wbcbench submit`: records -> one zip to send to whoever keeps a board."""

from __future__ import annotations

from pathlib import Path

import click

from wbcbench.cli.complete import records as found
from wbcbench.cli.options import json_option, store_option


@click.command("submit", short_help="Pack records for a leaderboard that others keep.")
@click.argument("records", nargs=-1, required=True, metavar="RECORD...", shell_complete=found)
@store_option("Where records named by trial id lie.")
@click.option(
    "-o", "--output", default="submission.zip", show_default=True,
    type=click.Path(path_type=Path, dir_okay=False), help="The pack.",
)  # fmt: skip
@click.option("--weights", is_flag=True, help="Pack the trained weights too.")
@json_option
def command(records: tuple[str, ...], store: Path, output: Path, weights: bool, as_json: bool) -> None:
    """Pack records (folders, or trial ids of a store) and the records of their teachers into one zip.

    It holds documents and arrays: no pickle, no code. Every metric is recomputed first. Whoever gets it says
    `wbcbench leaderboard verify PACK`.
    """
    from wbcbench.cli.output import print_json
    from wbcbench.publishing.pack import find_record, write_pack

    found = [find_record(name, store) for name in records]
    manifest = write_pack(found, output, weights=weights)
    parts = [c for r in found for c in r.result.components if c.provider != "wbcbench"]
    foreign = sorted({f"{c.kind} {c.name} ({c.provider})" for c in parts})
    if as_json:
        print_json({"pack": str(output), "code_not_packed": foreign, **manifest.model_dump(mode="json")})
        return
    teachers = len(manifest.records) - len(manifest.submitted)
    size = output.stat().st_size
    click.echo(
        f"{output}: {len(manifest.submitted)} records and {teachers} of their teachers, {size:,} bytes"
        + ("" if weights else ", without weights (--weights adds them)")
    )
    for component in foreign:
        click.echo(f"Code is not packed: say where {component} can be read.", err=True)


__all__ = ["command"]
