"""`wbcbench leaderboard`: tables from records. Never writes records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.api.defaults import COSTS, MARGIN, METRIC, RESAMPLES, STORE
from wbcbench.cli.completion import components
from wbcbench.cli.group import LazyGroup
from wbcbench.cli.options import added, json_option, plugins_options
from wbcbench.cli.output import print_json, print_table
from wbcbench.terminal import coloured, drawn

if TYPE_CHECKING:
    from wbcbench.api.boards import BoardRequest
    from wbcbench.boards.effects import Effects
    from wbcbench.boards.model import Report
    from wbcbench.boards.shares import Of

SUBCOMMANDS = {
    "compare": ("leaderboard:compare", "Explain the difference between two methods in plain words."),
    "effects": (
        "leaderboard:effects",
        "The average effect of a fusion, distiller, backbone or policy, all else equal.",
    ),
    "plot": ("leaderboard:plot", "Draw a figure for a paper: pareto, cd, heatmap, bars, missing."),
    "publish": (
        "publishing:publish",
        "Write a board's folder under leaderboards/, or check that its records reproduce it.",
    ),
    "verify": ("publishing:verify", "Check a pack of records: accept, needs a look, or refuse."),
    "hide": ("publishing:hide", "Split a data set into a public file and sealed test labels."),
    "merge": ("publishing:merge", "Merge the stores of several machines."),
    "diff": ("leaderboard:diff", "What changed between two boards, and why."),
    "schema": ("leaderboard:schema", "Print the JSON schema of --format json."),
}
"""Name -> where it is, short help."""
FORMATS = ("terminal", "markdown", "plain", "csv", "latex", "json", "parquet", "html")
"""The names in `wbcbench.boards.formats`, here without importing it."""
PARTS = ("group", "fold", "class")
FIGURES = ("pareto", "cd", "heatmap", "bars", "missing")


def stores_option(function: Any) -> Any:
    """Add `--store`, repeatable; the handler gets `store`."""
    option = click.option(
        "--store", multiple=True, default=(STORE,), envvar="WBCBENCH_STORE",
        show_default=True, type=click.Path(path_type=Path),
        help="Folder with records, or a published board; repeatable.",
    )  # fmt: skip
    return option(function)


margin_option = click.option(
    "--margin", default=MARGIN, show_default=True, metavar="X", help="What differs by less is called level."
)


def board_options(function: Any) -> Any:
    """Add the options of boards; their names are the fields of `api.boards.BoardRequest`."""
    return added([
        click.option("--key", multiple=True, metavar="DIGEST", help="Only this board; repeatable."),
        click.option("--where", multiple=True, metavar="FIELD=VALUE",
                     help="Only boards with this value in their key: dataset=npz, budget.epochs=30; repeatable."),
        click.option("--by", default=METRIC, show_default=True, metavar="METRIC",
                     shell_complete=components("metric"),
                     help="Metric that ranks; also one of `wbcbench list metrics`."),
        click.option("--metric", multiple=True, metavar="NAME[:KEY=VALUE]", shell_complete=components("metric"),
                     help="Show this metric too, computed from stored predictions; repeatable."),
        click.option("--seeds", metavar="0,1,2", help="Seeds a row needs; default: those that most rows have."),
        click.option("--statistics/--no-statistics", default=None,
                     help="Intervals, gains, the set of the best; default: on below some thousand records."),
        click.option("--resamples", default=RESAMPLES, show_default=True,
                     type=click.IntRange(100), metavar="N", help="Bootstrap resamples."),
        click.option("--verify", type=click.Choice(["quick", "files", "full"]),
                     help="How thoroughly to check new records; default: depends on their number."),
        click.option("--invalid", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
                     help="YAML list of records marked invalid, with reasons (leaderboards/invalid.yaml)."),
        click.option("--no-index", "index", flag_value=False, is_flag=True, default=True,
                     help="Read all records again, and write no index/ into the store."),
    ]
    )(plugins_options(function))  # fmt: skip


@click.group(
    "leaderboard",
    cls=LazyGroup,
    lazily=SUBCOMMANDS,
    unknown="`leaderboard` has no command '{}'.",
    invoke_without_command=True,
    short_help="Show finished trials as tables.",
)
@stores_option
@click.option("--format", "style", type=click.Choice(FORMATS), help="Default: terminal on a terminal, else plain.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
@click.option("--columns", metavar="A,B,C", help="Columns, in this order (terminal, plain, markdown, latex).")
@click.option("--ids", is_flag=True, help="Also method and trial ids, and the keys of boards.")
@click.option("--wide", is_flag=True, help="All columns, not only those that fit the terminal.")
@click.option(
    "--per",
    type=click.Choice(PARTS),
    help="One metric of every row by donor (or slide, plate), fold or class, instead of the table.",
)
@click.option(
    "--reproduced", is_flag=True,
    help="Of a published board, leave out rows that others claim and that were not trained again.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(COSTS), metavar="COST",
    help="Rows in the order of a cost: macs, params, latency, onnx-int8:size, onnx-int8:latency, ...",
)  # fmt: skip
@click.option("--together", is_flag=True, help="One table for all records; refused (exit 3) if keys differ.")
@board_options
@click.option("--json", "as_document", is_flag=True, help="The same as --format json.")
@click.pass_context
def leaderboard(
    ctx: click.Context, /, store: tuple[Path, ...], style: str | None, output: Path | None, columns: str | None,
    ids: bool, wide: bool, per: Of | None, as_document: bool, **values: Any,
) -> None:  # fmt: skip
    """Show one table per comparison key: only comparable trials share a table.

    Rows that cannot be distinguished from the best of their group share its rank. Records that cannot be trusted
    are listed on stderr and left out.
    """
    from wbcbench.api.boards import BoardRequest

    if ctx.invoked_subcommand is not None:
        return
    from wbcbench.boards.columns import chosen
    from wbcbench.boards.formats import BINARY, View, render
    from wbcbench.files import atomic_write_bytes

    terminal = sys.stdout.isatty() and output is None
    style = "json" if as_document else style or ("terminal" if terminal else "plain")
    if style in BINARY and output is None:
        raise click.UsageError(f"Expected -o FILE, since {style} is not text.")
    wanted = None if columns is None else tuple(c.strip() for c in columns.split(",") if c.strip())
    request = BoardRequest(store=store, **values)
    if per is not None:
        _show_per(request, per, as_document)
        return
    boards = request.boards()
    found = boards.report
    _warn(found)
    if not found.boards and style not in ("json", "parquet"):
        for note in found.notes:
            click.echo(note, err=True)
        click.echo(
            f"No finished trials in {', '.join(map(str, store))}. `wbcbench run` makes some; "
            "`wbcbench run --help` shows how.",
            err=style == "csv",
        )
        return
    for board in found.boards:
        chosen(board, wanted)  # an unknown name is an error in every format
    view = View(wanted, wide, _width(), colour=terminal and coloured(sys.stdout), ids=ids)
    data = render(found, style, view)
    if output is None:
        click.echo(data.decode(), nl=False, file=drawn(sys.stdout) if style == "terminal" else None)
    else:
        atomic_write_bytes(output, data)


def _show_per(request: BoardRequest, of: Of, as_document: bool) -> None:
    from wbcbench.boards import per as module
    from wbcbench.boards.columns import header
    from wbcbench.boards.text import clean

    options = request.options()
    with request.stores() as stores:
        tables = module.per(stores, of, options)
    if as_document:
        print_json({"tables": [t.model_dump(mode="json") for t in tables]})
        return
    for i, t in enumerate(tables):
        per_class = any(s.name == t.by and s.cls.per_class for s in options.metrics)
        metric = "F1" if of == "class" and not per_class else header(t.by)
        click.echo(("\n" if i else "") + clean(f"{t.dataset} (key {t.board}): {metric} by {of}, mean over seeds"))
        parts = [[clean(s.name), s.cells] for s in t.shares]
        values = [["" if v is None else f"{v:.3f}" for v in r.values] for r in t.rows]
        print_table(
            [of, "cells", *(clean(r.name) for r in t.rows)],
            [[*part, *column] for part, column in zip(parts, zip(*values, strict=True), strict=True)],
        )
        if of != "class" and any(s.classes < len(t.classes) for s in t.shares) and t.by == "macro_f1":
            click.echo(f"macro-F1 is over the classes that a {of} has.")


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


@click.command("compare")
@click.argument("a")
@click.argument("b")
@margin_option
@stores_option
@board_options
@json_option
def compare(as_json: bool, **values: Any) -> None:
    """Explain the difference between methods A and B.

    Each is a row's name as the table shows it, or the beginning of a method's or a trial's id.
    """
    from wbcbench.api.boards import CompareRequest
    from wbcbench.boards.text import clean

    found = CompareRequest(**values).explain()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in found.lines():
        indent = len(line) - len(line.lstrip())
        click.echo(" " * indent + clean(line).lstrip())


@click.command("effects")
@click.option("--of", type=click.Choice(["fusion", "kd", "backbone", "policy"]), default="fusion",
              show_default=True, help="The factor that varies; all else is equal.")  # fmt: skip
@click.option("--against", metavar="LEVEL", help="What others are compared with; default: early, or none.")
@margin_option
@stores_option
@board_options
@json_option
def effects(of: Any, against: str | None, as_json: bool, **values: Any) -> None:
    """Average the paired differences over every block in which both levels were run.

    For --of fusion a block is the same distiller, teachers, backbone, policies and recipe, and so on. `ahead`
    counts the blocks in which the level leads. * is beyond noise, = is shown to differ by less than the margin;
    both are corrected for the levels shown (Holm).
    """
    from wbcbench.api.boards import BoardRequest
    from wbcbench.boards import effects as module

    wanted = BoardRequest(**values)
    options = wanted.options()
    with wanted.stores() as stores:
        found = module.effects(stores, of, options, against)
    if as_json:
        print_json({"effects": [e.model_dump(mode="json") for e in found]})
        return
    for i, board in enumerate(found):
        if i:
            click.echo()
        _show_effects(board)


def _show_effects(board: Effects) -> None:
    from tabulate import tabulate

    from wbcbench.boards.columns import header
    from wbcbench.boards.text import clean

    key = board.key
    click.echo(clean(f"{key.dataset}: {' + '.join(key.modalities)} (key {board.board})"))
    seeds = ", ".join(map(str, board.seeds))
    what = f"{header(board.by)} of each {board.of} minus {board.against}, seeds {seeds}"
    click.echo(clean(f"{what}; = is within {board.margin:g}"))
    rows = [
        (
            clean(e.level),
            f"{e.lead:+.3f}{'*' if e.beyond_noise else '=' if e.level_within else ' '}",
            f"{e.low:+.3f} to {e.high:+.3f}",
            "" if e.p_holm is None else f"{e.p_holm:.2g}" if e.p_holm >= 1e-4 else "< 0.0001",
            f"{e.ahead} of {e.blocks}",
            "" if e.macs is None else f"{e.macs:.2f}x",
        )
        for e in board.effects
    ]
    click.echo(
        tabulate(
            rows, headers=(board.of, "lead", "95 %", "p (Holm)", "ahead", "MACs"), disable_numparse=True,
            colalign=("left", "right", "right", "right", "right", "right"),
        )
    )  # fmt: skip
    if board.alone:
        click.echo(clean(f"No block in common with {board.against}: {', '.join(board.alone)}"))
    if board.winners:
        click.echo(clean(f"Left out, since a search chose their parameters: {', '.join(board.winners)}"))


@click.command("plot")
@click.option("--kind", type=click.Choice(FIGURES), default="pareto", show_default=True)
@click.option("--save", "target", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="File that ends in .pdf, .svg or .png.")  # fmt: skip
@click.option("--cost", type=click.Choice(COSTS), default="macs", show_default=True,
              help="Horizontal axis of pareto; of a deployed file, the vertical one is its score.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), metavar="N", help="Only the N best rows.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this row, by name or method id; repeatable.")
@click.option("--width", type=click.Choice(["one", "two"]), default="two", show_default=True,
              help="Columns of a journal's page.")  # fmt: skip
@stores_option
@board_options
def plot(
    kind: str, target: Path, cost: str, top: int | None, only: tuple[str, ...], width: Any, **values: Any
) -> None:
    """Draw one board (cd: several data sets) as a figure with labelled axes and colour-blind-safe colours.

    Its data is written beside it as CSV. In pareto, rows on the front and those of --only are named, others have
    numbers. Equal records give equal bytes.
    """
    from wbcbench.api.boards import BoardRequest
    from wbcbench.boards.figures.paper import Look, save

    boards = BoardRequest(**values).boards()
    beside = save(boards.report, kind, target, Look(cost, top, only, width))
    click.echo(target)
    click.echo(f"Data: {beside}", err=True)


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@json_option
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Show what changed from OLD to NEW, and why: new seeds, new rows, invalid records, other code.

    Each is a published folder, or a file written by `wbcbench leaderboard --format json`.
    """
    from dataclasses import asdict

    from wbcbench.boards.text import clean
    from wbcbench.publishing.changes import changes, read_report, title_of

    before, after = read_report(old), read_report(new)
    found = changes(before, after)
    if as_json:
        print_json({"changes": [asdict(c) for c in found]})
        return
    titles = {b.digest: f"{title_of(b)} (key {b.digest})" for b in (*before.boards, *after.boards)}
    heading = None
    for change in found:
        if change.board != heading:
            heading = change.board
            click.echo(clean(titles.get(heading, "All boards")))
        click.echo(f"  {clean(change.row)}: {change.what}")
        for why in change.why:
            click.echo(f"      {clean(why)}")
    if not found:
        click.echo("Nothing changed.")


@click.command("schema")
def schema() -> None:
    """Print the JSON schema of `wbcbench leaderboard --format json`."""
    from wbcbench.boards.formats.data import schema as board_schema

    print_json(board_schema())


__all__ = ["compare", "diff", "effects", "leaderboard", "plot", "schema", "stores_option"]
