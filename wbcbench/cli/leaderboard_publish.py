"""`wbcbench leaderboard publish`: a board as a folder that anybody can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wbcbench.cli.leaderboard import board_options, check_stores, options_from, store_option


@click.command("publish")
@click.option("--name", required=True, metavar="NAME", help="Of the folder under --to.")
@click.option("--to", default="leaderboards", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of all published boards, and of invalid.yaml.")  # fmt: skip
@click.option("--title", help="Heading of the board; default: its name.")
@click.option("--check", "checking", is_flag=True,
              help="Write nothing; exit 1 if a file is not what the folder's records give.")  # fmt: skip
@store_option
@board_options
@click.pass_context
def command(
    ctx: click.Context, /, name: str, to: Path, title: str | None, checking: bool, stores: tuple[Path, ...],
    **values: Any,
) -> None:  # fmt: skip
    """Write leaderboards/NAME/: README.md, board.csv, board.json, index.html, and the records they are made from.

    Publishing again adds new records; none that was published may vanish unless leaderboards/invalid.yaml strikes
    it out with a reason (exit 3). Equal records give equal bytes.
    """
    from wbcbench.publishing.published import Asked, check, publish

    if not name or name.startswith(".") or Path(name).name != name:
        raise click.UsageError(f"Expected a plain folder name as --name, but got '{name}'.")
    folder = to / name
    if checking:
        found = check(folder)
        for problem in found.problems:
            click.echo(f"{folder}: {problem}")
        if found.problems:
            ctx.exit(1)
        click.echo(f"{folder} is what its {found.records} records on boards give.")
        return
    check_stores(stores)
    options = options_from(values)
    asked = Asked(
        title=title or name, by=options.by, seeds=options.seeds, keys=options.keys, where=options.where,
        resamples=options.resamples,
    )  # fmt: skip
    report, manifest = publish(folder, list(stores), asked)
    rows = sum(len(b.rows) for b in report.boards)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    click.echo(
        f"{folder}: {len(report.boards)} boards, {rows} rows, {len(manifest.records)} records, {size:.1f} MB"
    )
    click.echo(f"Check it: wbcbench leaderboard publish --check --to {to} --name {name}")


__all__ = ["command"]
