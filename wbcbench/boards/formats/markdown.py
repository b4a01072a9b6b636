"""GitHub tables, one section per board."""

from __future__ import annotations

from tabulate import tabulate

from wbcbench.boards.formats import View
from wbcbench.boards.formats.grid import grid
from wbcbench.boards.formats.wording import ALONE, across_lines, legend, tables, title
from wbcbench.boards.model import Report
from wbcbench.boards.text import markdown


def render(report: Report, view: View) -> bytes:
    """UTF-8 Markdown."""
    sections = []
    boards, alone = tables(report.boards)
    for board in boards:
        g = grid(board, view, markdown)
        table = tabulate(g.rows, headers=g.headers, tablefmt="github", disable_numparse=True, colalign=g.align)
        notes = "\n".join(f"- {markdown(line)}" for line in legend(board, g.names))
        sections.append(f"## {markdown(title(board))}\n\n{table}\n\n{notes}\n")
    if alone:
        sections.append("\n".join([f"{ALONE}\n", *(f"- {markdown(line)}" for line in alone), ""]))
    for across in report.across:
        lines = "\n".join(f"- {markdown(x)}" for x in across_lines(across))
        sections.append(f"## Across data sets\n\n{lines}\n")
    if report.notes:
        sections.append("\n".join([*(f"- {markdown(line)}" for line in report.notes), ""]))
    return "\n".join(sections).encode()
