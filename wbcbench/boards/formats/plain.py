"""Aligned text without colours, for logs and e-mails."""

from __future__ import annotations

from tabulate import tabulate

from wbcbench.boards.formats import View
from wbcbench.boards.formats.grid import grid
from wbcbench.boards.formats.wording import ALONE, across_lines, legend, tables, title
from wbcbench.boards.model import Report
from wbcbench.boards.text import clean


def render(report: Report, view: View) -> bytes:
    """UTF-8 text."""
    sections = []
    boards, alone = tables(report.boards)
    for board in boards:
        g = grid(board, view, clean)
        table = tabulate(g.rows, headers=g.headers, tablefmt="simple", disable_numparse=True, colalign=g.align)
        sections.append("\n".join([clean(title(board)), "", table, "", *map(clean, legend(board, g.names)), ""]))
    if alone:
        sections.append("\n".join([ALONE, *map(clean, alone), ""]))
    sections += ["\n".join([*map(clean, across_lines(a)), ""]) for a in report.across]
    if report.notes:
        sections.append("\n".join([*map(clean, report.notes), ""]))
    return "\n".join(sections).encode()
