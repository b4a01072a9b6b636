"""Tables with rich: fitted to the terminal, the best group in bold, unranked rows dim."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wbcbench.leaderboard.formats import View
from wbcbench.leaderboard.formats.grid import grid
from wbcbench.leaderboard.formats.wording import across_lines, legend, title
from wbcbench.leaderboard.model import Board, Report
from wbcbench.leaderboard.text import clean


def render(report: Report, view: View) -> bytes:
    """UTF-8 text, with escape sequences if `view.colour`."""
    out = io.StringIO()
    console = Console(
        file=out, width=view.width, force_terminal=view.colour, no_color=not view.colour, highlight=False,
        markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    for board in report.boards:
        console.print(Text(clean(title(board)), style="bold"))
        console.print(_table(board, view))
        for line in legend(board):
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


def _table(board: Board, view: View) -> Table:
    g = grid(board, view, clean)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, header in zip(g.columns, g.headers, strict=True):
        table.add_column(Text(header), justify="right" if column.right else "left", overflow="fold")
    for row, cells in zip(board.rows, g.rows, strict=True):
        style = "dim" if row.rank is None else "bold" if row.rank == 1 else ""
        table.add_row(*map(Text, cells), style=style)
    return table
