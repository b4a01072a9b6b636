"""Tables with rich: as many columns as the terminal has room for, the best group in bold, unranked rows dim."""

from __future__ import annotations

import io
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wbcbench.boards.formats import View
from wbcbench.boards.formats.grid import Grid, fitted, grid
from wbcbench.boards.formats.wording import ALONE, across_lines, legend, tables, title
from wbcbench.boards.model import Board, Report
from wbcbench.boards.text import clean


def render(report: Report, view: View) -> bytes:
    """UTF-8 text, with escape sequences if `view.colour`."""
    out = io.StringIO()
    console = Console(
        file=out, width=view.width, force_terminal=view.colour, no_color=not view.colour, highlight=False,
        markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    boards, alone = tables(report.boards)
    for board in boards:
        g = grid(board, view, clean)
        gone: list[str] = []
        asked = view.wide or view.columns is not None
        if not asked:
            g, gone = fitted(g, board, view.width)
        console.print(Text(clean(title(board)), style="bold"))
        console.print()
        # what was asked for is never squeezed: long lines can be scrolled, broken words cannot be read
        console.width = max(view.width, g.width) if asked else view.width
        console.print(_table(board, g))
        console.width = view.width
        console.print()
        for line in legend(board, g.names):
            console.print(Text(clean(line), style="dim"))
        if gone:
            text = f"No room for: {', '.join(gone)}. A wider terminal, --columns or --wide shows them."
            console.print(Text(clean(text), style="dim"))
        console.print()
    if alone:
        for line in (ALONE, *alone):
            console.print(Text(clean(line), style="dim"))
        console.print()
    for across in report.across:
        for line in across_lines(across):
            console.print(Text(clean(line)))
        console.print()
    for line in report.notes:
        console.print(Text(clean(line)))
    # rich pads lines to the width; trailing blanks are of no use in a file
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines()).encode()


def _table(board: Board, g: Grid) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, column, header in zip(g.names, g.columns, g.headers, strict=True):
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(Text(header), justify=side, overflow="fold", no_wrap=name != "method")
    status = board.rows[0].status if board.rows else ""
    for row, cells in zip(board.rows, g.rows, strict=True):
        if row.status != status:
            table.add_row()
            status = row.status
        style = "dim" if row.rank is None else "bold" if row.rank == 1 else ""
        table.add_row(*map(Text, cells), style=style)
    return table
