"""`wbcbench submit`: records -> one zip to send to whoever keeps a board."""

from __future__ import annotations

from pathlib import Path

import click

from wbcbench.cli.complete import records as found
from wbcbench.cli.options import json_option, store_option


@click.command("submit", short_help="Pack records for a leaderboard that others keep.")
@click.argument("records", nargs=-1, required=True, metavar="RECORD...", shell_complete=found)
@store_option("Where records named by trial id lie: a folder with records, or a published board.")
@click.option(
    "-o", "--output", default="submission.zip", show_default=True,
    type=click.Path(path_type=Path, dir_okay=False), help="The pack.",
)  # fmt: skip
@click.option("--weights", is_flag=True, help="Pack the trained weights too.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, records: tuple[str, ...], store: Path, output: Path, weights: bool, as_json: bool
) -> None:
    """Pack records and the records of their teachers into one zip.

    A RECORD is a folder, a trial id of the store (or the beginning of one), or a method's name, which means all of
    its seeds.

    It holds documents and arrays: no pickle, no code. Every metric is recomputed first. Whoever gets it says
    `wbcbench leaderboard verify PACK`.
    """
    from wbcbench.cli.output import print_json
    from wbcbench.publishing.pack import find_records, write_pack
    from wbcbench.publishing.sources import store_at
    from wbcbench.records.store import Store

    here = ctx.with_resource(store_at(store))
    found = list({r.trial.id: r for name in records for r in find_records(name, here)}.values())
    manifest = write_pack(
        found, output, weights=weights, store_of=lambda root: here if root == here.root else Store(root)
    )
    parts = [c for r in found for c in r.result.components if c.provider != "wbcbench"]
    foreign = sorted({f"{c.kind} {c.name} ({c.provider})" for c in parts})
    if as_json:
        print_json({"pack": str(output), "code_not_packed": foreign, **manifest.model_dump(mode="json")})
        return
    rows: dict[tuple[str, str], list[int]] = {}
    for record in found:
        r = record.result
        rows.setdefault((r.method_id, r.title), []).append(r.seed)
    for (_, name), seeds in rows.items():
        click.echo(f"{name}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}")
    searches = [file.split("/")[1] for file in manifest.files if file.startswith("searches/")]
    if searches:
        click.echo(f"What was spent before: search {', '.join(searches)}")
    teachers = len(manifest.records) - len(manifest.submitted)
    size = output.stat().st_size
    click.echo(
        f"{output}: {len(manifest.submitted)} records and {teachers} of their teachers, {size:,} bytes"
        + ("" if weights else ", without weights (--weights adds them)")
    )
    for component in foreign:
        click.echo(f"Code is not packed: say where {component} can be read.", err=True)


__all__ = ["command"]
