"""LaTeX tables for a paper: booktabs, numbers as they are shown to people, everything escaped."""

from __future__ import annotations

from wbcbench.boards.formats import View
from wbcbench.boards.formats.grid import grid
from wbcbench.boards.formats.wording import legend, title
from wbcbench.boards.model import Board, Report
from wbcbench.boards.text import latex


def render(report: Report, view: View) -> bytes:
    """One `table*` per board; needs `\\usepackage{booktabs,graphicx}`."""
    head = "% \\usepackage{booktabs,graphicx}\n"
    return (head + "\n".join(_table(b, view) for b in report.boards)).encode()


def _table(board: Board, view: View) -> str:
    g = grid(board, view, latex)
    caption = latex(f"{title(board)}. {' '.join(legend(board, g.names))}")
    lines = [
        r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}",
        r"\resizebox{\linewidth}{!}{%", rf"\begin{{tabular}}{{{''.join(a[0] for a in g.align)}}}", r"\toprule",
        " & ".join(g.headers) + r" \\", r"\midrule",
    ]  # fmt: skip
    last = board.rows[0].status if board.rows else "ranked"
    for row, cells in zip(board.rows, g.rows, strict=True):
        if row.status != last:
            lines.append(r"\midrule")
            last = row.status
        marked = [rf"\textbf{{{c}}}" if row.rank == 1 and c else c for c in cells]
        lines.append(" & ".join(marked) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""]
    return "\n".join(lines)
