"""`wbcbench leaderboard publish`: a board as a folder that anybody can check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wbcbench.cli.leaderboard import opened, options_from, store_option
from wbcbench.cli.options import load, plugin_options

if TYPE_CHECKING:
    from wbcbench.publishing.board_files import Asked

SHOWN = 8
"""Names of new rows, at most."""


@click.command("publish")
@click.option("--name", metavar="NAME", help="Of the folder under --to; with --check, default: every board there.")
@click.option("--to", default="leaderboards", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of all published boards, and of invalid.yaml.")  # fmt: skip
@click.option("--check", "checking", is_flag=True,
              help="Write nothing; exit 1 if a file is not what its records give, or one vanished.")  # fmt: skip
@click.option("--rebuild", is_flag=True,
              help="From what is published alone: after an upgrade, or a change of invalid.yaml.")  # fmt: skip
@store_option
@click.option("--pack", "packs", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
              help="Also what a stranger submitted, if it is not refused; repeatable.")  # fmt: skip
@click.option("--title", help="Heading of the board; default: its name.")
@click.option("--key", "keys", multiple=True, metavar="DIGEST", help="Only this board; repeatable.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE",
              help="Only boards whose key says so: dataset=npz, budget.epochs=30; repeatable.")  # fmt: skip
@click.option("--by", default="macro_f1", show_default=True, metavar="METRIC", help="What ranks.")
@click.option("--seeds", metavar="0,1,2",
              help="Seeds a row needs; default: as it was published with, at first of most rows.")  # fmt: skip
@click.option("--resamples", default=10_000, show_default=True, type=click.IntRange(100), metavar="N",
              help="Bootstrap resamples.")  # fmt: skip
@plugin_options
@click.pass_context
def command(
    ctx: click.Context, /, name: str | None, to: Path, checking: bool, rebuild: bool, stores: tuple[Path, ...],
    packs: tuple[Path, ...], **values: Any,
) -> None:  # fmt: skip
    """Write leaderboards/NAME/: README.md, board.csv, board.json, index.html, protocol.json, and the records.

    Published again, or with a --pack, a board keeps its records, options and seeds, and adds what --pack and a
    --store that is named here have. A record stops counting only where leaderboards/invalid.yaml strikes it out
    with a reason. Equal records give equal bytes.
    """
    if name is not None and (name.startswith(".") or Path(name).name != name):
        raise click.UsageError(f"Expected a plain folder name as --name, but got '{name}'.")
    if checking:
        ctx.exit(_check(to, name))
    if name is None:
        raise click.UsageError("Expected --name NAME: the folder to write under --to.")
    from wbcbench.boards.text import clean
    from wbcbench.publishing.publish import publish
    from wbcbench.publishing.side_files import PACK
    from wbcbench.publishing.verify import installed_by, solved_once_by

    folder = to / name
    there = (folder / PACK).is_file()
    if rebuild and not there:
        raise click.UsageError(f"Expected a published board to --rebuild, but {folder} has no {PACK}.")
    said = ctx.get_parameter_source("stores") is ParameterSource.COMMANDLINE
    if rebuild or (not said and (there or packs)):
        if not rebuild and (idle := [s for s in stores if s.is_dir()]):
            click.echo(f"Not read: {', '.join(map(str, idle))}. --store adds a store's records.", err=True)
        stores = ()
    asked = _asked(ctx, folder, name, values)
    registry, _ = load(values["plugins"])
    done = publish(folder, opened(stores), asked, packs, solved_once_by(registry), installed_by(registry))
    for line in done.told:
        click.echo(line, err=True)
    for origin, names in done.sources.items():
        rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        click.echo(clean(f"New from {origin}: {'; '.join(names[:SHOWN]) or 'no row'}{rest}"))
    rows = sum(len(b.rows) for b in done.report.boards)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    boards, records = len(done.report.boards), len(done.manifest.records)
    click.echo(f"{folder}: {boards} boards, {rows} rows, {records} records, {size:.1f} MB")
    click.echo(f"Check it: wbcbench leaderboard publish --check --to {to} --name {name}")


def _asked(ctx: click.Context, folder: Path, name: str, values: dict[str, Any]) -> Asked:
    """What the command line says; where it is silent, what the board was asked for before."""
    from wbcbench.publishing.board_files import PROTOCOL, Asked, read_asked

    options = options_from({"statistics": None, "verify": None, "invalid": None, "no_index": False, **values})
    said = {"title": values["title"] or name, "by": options.by, "seeds": options.seeds, "keys": options.keys,
            "where": options.where, "resamples": options.resamples}  # fmt: skip
    if (folder / PROTOCOL).is_file():
        quiet = (n for n in said if ctx.get_parameter_source(n) is ParameterSource.DEFAULT)
        said |= read_asked(folder).model_dump(include={*quiet, "board_seeds"})
    return Asked(**said)


def _check(to: Path, name: str | None) -> int:
    from wbcbench.publishing.publish import GIVES, check, check_all

    found = check_all(to) if name is None else {name: check(to / name)}
    for board, result in found.items():
        for problem in result.problems:
            click.echo(f"{to / board}: {problem}")
        for note in result.notes:
            click.echo(f"{to / board}: note: {note}")
        if not result.problems:
            click.echo(f"{to / board} is what its {result.records} records on boards give; none has vanished.")
        if any(p.endswith(GIVES) for p in result.problems):
            click.echo(f"    If that is meant: wbcbench leaderboard publish --rebuild --to {to} --name {board}")
        if any("vanished" in p for p in result.problems):
            click.echo("    Bring it back from an earlier commit, or strike it out in invalid.yaml and say why.")
    if not found:
        click.echo(f"No board is published in {to}.")
    return int(any(result.problems for result in found.values()))


__all__ = ["command"]
