"""GitHub tables, one section per board."""

from __future__ import annotations

from tabulate import tabulate

from wbcbench.leaderboard.formats import View
from wbcbench.leaderboard.formats.grid import grid
from wbcbench.leaderboard.formats.wording import across_lines, legend, title
from wbcbench.leaderboard.model import Report
from wbcbench.leaderboard.text import markdown


def render(report: Report, view: View) -> bytes:
    """UTF-8 Markdown."""
    sections = []
    for board in report.boards:
        g = grid(board, view, markdown)
        table = tabulate(g.rows, headers=g.headers, tablefmt="github", disable_numparse=True, colalign=g.align)
        notes = "\n".join(f"- {markdown(line)}" for line in legend(board))
        sections.append(f"## {markdown(title(board))}\n\n{table}\n\n{notes}\n")
    for across in report.across:
        first, *ranks = across_lines(across)
        sections.append(
            "\n".join([f"## Across data sets\n\n{markdown(first)}\n", *(f"- {markdown(x)}" for x in ranks), ""])
        )
    if report.notes:
        sections.append("\n".join([*(f"- {markdown(line)}" for line in report.notes), ""]))
    return "\n".join(sections).encode()
