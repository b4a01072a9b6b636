"""`wbcbench leaderboard`: records -> tables. Reads records, writes none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from wbcbench.boards.model import Report
    from wbcbench.records.store import Store

SUBCOMMANDS = {
    "compare": "Explain the difference between two methods in plain words.",
    "effects": "What a fusion, distiller, backbone or policy is worth on average, all else equal.",
    "plot": "Draw a figure for a paper: pareto, cd, heatmap, bars, missing.",
    "publish": "Write a board's folder under leaderboards/, or check that it is what its records give.",
    "verify": "Judge a pack of records: accept, needs a look, or refuse.",
    "merge": "Join stores of several machines.",
    "diff": "What moved between two boards, and why.",
    "schema": "Print the JSON schema of --format json.",
}
"""Name -> short help; the command is `command` in `wbcbench/cli/leaderboard_<name>.py`."""

FORMATS = ("terminal", "markdown", "plain", "csv", "latex", "json", "parquet", "html")
"""The names in `wbcbench.boards.formats`, known without importing it."""


def store_option(function: Any) -> Any:
    """Add `--store`, repeatable; the handler gets `stores`."""
    option = click.option(
        "--store", "stores", multiple=True, default=("wbcbench-store",), envvar="WBCBENCH_STORE",
        show_default=True, type=click.Path(path_type=Path),
        help="Folder with records, or a published board; repeatable.",
    )  # fmt: skip
    return option(function)


def board_options(function: Any) -> Any:
    """Add what chooses and makes boards; `options_from` turns the handler's arguments into `Options`."""
    for option in reversed([
        click.option("--key", "keys", multiple=True, metavar="DIGEST", help="Only this board; repeatable."),
        click.option("--where", multiple=True, metavar="FIELD=VALUE",
                     help="Only boards whose key says so: dataset=npz, budget.epochs=30; repeatable."),
        click.option("--by", default="macro_f1", show_default=True, metavar="METRIC", help="What ranks."),
        click.option("--seeds", metavar="0,1,2", help="Seeds a row needs; default: those that most rows have."),
        click.option("--statistics/--no-statistics", default=None,
                     help="Intervals, gains and ties; default: unless there are thousands of records."),
        click.option("--resamples", default=10_000, show_default=True, type=click.IntRange(100), metavar="N",
                     help="Bootstrap resamples."),
        click.option("--verify", type=click.Choice(["quick", "files", "full"]),
                     help="How closely to check new records; default: as closely as their number allows."),
        click.option("--invalid", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
                     help="YAML of records that are struck out, with reasons (leaderboards/invalid.yaml)."),
        click.option("--no-index", is_flag=True, help="Read everything anew and write no index/ into the store."),
    ]):  # fmt: skip
        function = option(function)
    return function


def options_from(values: dict[str, Any], **more: Any) -> Any:
    """`Options` from the arguments of `board_options`. Raises `UsageError`."""
    from wbcbench.boards.options import Options, read_invalid
    from wbcbench.errors import UsageError

    where = {}
    for item in values["where"]:
        name, sep, value = item.partition("=")
        if not sep:
            raise UsageError(f"Expected --where FIELD=VALUE, as in dataset=npz, but got '{item}'.")
        where[name.strip()] = value.strip()
    seeds = None
    if values["seeds"] is not None:
        try:
            seeds = tuple(int(s) for s in values["seeds"].split(",") if s.strip())
        except ValueError:
            raise UsageError(f"Expected --seeds like 0,1,2, but got '{values['seeds']}'.") from None
    return Options(
        by=values["by"], seeds=seeds, keys=tuple(values["keys"]), where=where, statistics=values["statistics"],
        resamples=values["resamples"], verify=values["verify"], index=not values["no_index"],
        invalid=read_invalid(values["invalid"]) if values["invalid"] else {}, **more,
    )  # fmt: skip


def check_stores(stores: tuple[Path, ...]) -> None:
    """Raise `click.UsageError` (exit 2) for a store that is not there."""
    for store in stores:
        if not store.is_dir():
            raise click.UsageError(
                f"Expected a store, but {store} is not a folder. Choose one with --store, or make one with "
                "`wbcbench run`."
            )


def opened(stores: tuple[Path, ...]) -> list[Store]:
    """Stores to read: folders with records, and published boards, unpacked and checked until the command ends.

    Raises `click.UsageError` (exit 2) for what is neither, `RecordError` for a pack that is not what it says.
    """
    from wbcbench.publishing.sources import stores_at

    check_stores(stores)
    return click.get_current_context().with_resource(stores_at(stores))


@click.group(
    "leaderboard",
    cls=LazyGroup,
    names=SUBCOMMANDS,
    modules="wbcbench.cli.leaderboard_{}",
    unknown="`leaderboard` has no command '{}'.",
    invoke_without_command=True,
    short_help="Show finished trials as tables.",
)
@store_option
@click.option("--format", "style", type=click.Choice(FORMATS), help="Default: terminal there, else plain.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
@click.option("--columns", metavar="A,B,C", help="Which, in this order (terminal, plain, markdown, latex).")
@click.option("--wide", is_flag=True, help="All columns, not only those that fit a terminal.")
@click.option("--together", is_flag=True, help="One table for all; refused (exit 3) where keys differ.")
@board_options
@click.option("--json", "as_document", is_flag=True, help="The same as --format json.")
@click.pass_context
def command(
    ctx: click.Context, /, stores: tuple[Path, ...], style: str | None, output: Path | None, columns: str | None,
    wide: bool, together: bool, as_document: bool, **values: Any,
) -> None:  # fmt: skip
    """Show one table per comparison key: only trials that may be compared share one.

    Rows that cannot be told from the best of their group share its rank. Records that cannot be trusted are named
    on stderr and left out.
    """
    if ctx.invoked_subcommand is not None:
        return
    from wbcbench.boards.build import report
    from wbcbench.boards.columns import chosen
    from wbcbench.boards.formats import BINARY, View, render
    from wbcbench.records.files import atomic_write_bytes

    terminal = sys.stdout.isatty() and output is None
    style = "json" if as_document else style or ("terminal" if terminal else "plain")
    if style in BINARY and output is None:
        raise click.UsageError(f"Expected -o FILE, since {style} is no text.")
    wanted = None if columns is None else tuple(c.strip() for c in columns.split(",") if c.strip())
    found = report(opened(stores), options_from(values, together=together))
    _warn(found)
    if not found.boards and style not in ("json", "parquet"):
        for note in found.notes:
            click.echo(note, err=True)
        click.echo(
            f"No finished trials in {', '.join(map(str, stores))}. `wbcbench run` makes some; "
            "`wbcbench run --help` shows how.",
            err=style == "csv",
        )
        return
    for board in found.boards:
        chosen(board, wanted)  # a wrong name is an error in every format
    view = View(wanted, wide, _width(), colour=terminal)
    data = render(found, style, view)
    if output is None:
        click.echo(data.decode(), nl=False)
    else:
        atomic_write_bytes(output, data)


def _warn(found: Report) -> None:
    from wbcbench.boards.text import clean

    for refused in found.refused[:50]:
        where = f" ({refused.path})" if refused.path else ""
        click.echo(f"refused: {clean(refused.reason + where)}", err=True)
    if len(found.refused) > 50:
        click.echo(f"refused: {len(found.refused) - 50} more (--json lists them)", err=True)


def _width() -> int:
    import shutil

    return max(80, shutil.get_terminal_size((160, 40)).columns)


__all__ = ["SUBCOMMANDS", "board_options", "check_stores", "command", "opened", "options_from", "store_option"]
