"""Readable tables and the text around them: terminal, plain text, Markdown and LaTeX."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len

from wbcbench.boards.columns import COLUMNS, DEPLOYED, FIRST_TO_GO, Column, available, chosen, header, shared
from wbcbench.boards.figures.data import without_power
from wbcbench.boards.formats import View
from wbcbench.boards.model import Across, Board, Report
from wbcbench.boards.text import clean, latex, markdown

if TYPE_CHECKING:
    from rich.table import Table

# Sentences, not yet escaped

SINGLE_ROW = "Boards of one row, with nothing to compare it to:"
"""Heading of the lines of `split`."""
_PAIRS = 5
"""Maximum number of comparisons of the best method that are listed."""


def title(board: Board, key: bool = True) -> str:
    """What the board's rows have in common, in one line; `key`: with the digest of its key."""
    k = board.key
    pseudo = (
        " (pseudo-multimodal)" if len(k.modalities) > 1 and all(r.pseudo_multimodal for r in board.rows) else ""
    )
    pixels = f" {k.image_size} px," if k.image_size else ""
    leaks = ", leaks between the sides of the split allowed" if k.leaks_allowed else ""
    return (
        f"{board.name}{pseudo},{pixels} {len(k.classes)}{' ordered' * k.ordered} classes, "
        f"{k.budget.epochs} epochs of batch {k.budget.batch_size}{leaks}{f' (key {board.digest})' if key else ''}"
    )


def _headings(boards: Sequence[Board], view: View) -> dict[str, str]:
    """Titles for people: with the key only if it was asked for, or nothing else tells two boards apart."""
    often = Counter(title(b, key=False) for b in boards)
    return {b.digest: title(b, view.ids or often[title(b, key=False)] > 1) for b in boards}


def split(boards: Sequence[Board], headings: Mapping[str, str] | None = None) -> tuple[list[Board], list[str]]:
    """The boards to show as tables, and one line for each board with a single row, such as a teacher's.

    If no board has more than one row, all are tables.

    Args:
        boards: of a report.
        headings: digest -> heading; None: `title`.
    """
    large = [b for b in boards if len(b.rows) > 1]
    if not large:
        return list(boards), []
    found = headings or {b.digest: title(b) for b in boards}
    return large, [_line(b, found[b.digest]) for b in boards if len(b.rows) == 1]


def _line(board: Board, heading: str) -> str:
    (row,) = board.rows
    return f"{heading}: {row.name}, {header(board.by)} {available(board)[board.by].cell(row, board)}, n {row.n}"


def legend(board: Board, columns: Sequence[str] = ()) -> list[str]:
    """How to read the table with these columns, followed by the board's notes."""
    ranked = [r for r in board.rows if r.status == "ranked"]
    better = "higher" if board.higher_is_better else "lower"
    over = "seeds" if board.folds else "n seeds"
    lines = [f"Mean ± sd (ddof 1) over {over}; ranked by {header(board.by)}, {better} is better."]
    if board.resamples is not None:
        what = f"{board.test_cells} test cells" + (f" in {board.clusters} groups" if board.grouped else "")
        lines.append(f"95 % intervals over {what} ({board.resamples} bootstrap resamples) and seeds.")
        best = sum(bool(r.among_best) for r in ranked)
        if best:
            lines.append(
                f"Rank: order of means. † may be the best: {best} of {len(ranked)} rows; with 95 % confidence the "
                "best is one of them (of several equally good ones some may be missing). Paired over cells, seeds."
            )
        if board.detectable is not None:
            lines.append(
                f"Resolution: behind the best by {board.detectable:.3f}, a row would lose its † in 4 of 5 cases."
            )
    gains = []
    if {"over_single", "over_single_interval"} & set(columns):
        gains.append("vs single: lead over the best single modality by validation")
    if {"over_no_kd", "over_no_kd_interval"} & set(columns):
        gains.append("vs no KD: lead over the same student without distillation")
    if gains:
        lines.append("; ".join(gains) + ". Paired, positive is better, * beyond noise (Holm over the column).")
    if any(r.status == "reference" for r in board.rows):
        lines.append("reference: reads fewer modalities than the board has, and does not compete.")
    if any(r.pseudo_multimodal for r in board.rows):
        lines.append("Pseudo-multimodal: the modalities were computed from one image; no new light was measured.")
    same = {name: text for name, text in shared(board).items() if name not in columns and text}
    if "latency" not in columns and "throughput" not in columns:
        same.pop("device", None)
    words = {"backbone": "backbone {}", "device": "latency and throughput on {}",
             "levelled": "validation at the end of training: {}"}  # fmt: skip
    facts = [words[name].format(text) for name, text in same.items()]
    if board.rows and not any(r.foreign or r.outside for r in board.rows):
        facts.append("no component from outside wbcbench")
    if facts:
        lines.append(f"All rows: {', '.join(facts)}.")
    return [*lines, *board.notes]


def across_lines(across: Across) -> list[str]:
    """The comparison over several data sets, as lines."""
    lines = [
        f"Over {len(across.boards)} data sets, {len(across.methods)} methods ranked by {header(across.by)}: "
        f"Friedman p = {across.friedman_p:.3g}; mean ranks nearer than {across.critical_difference:.2f} cannot be "
        "told apart (Nemenyi, alpha 0.05).",
        *([without_power(across)] if across.hopeless else []),
        "Mean rank of each:",
    ]
    lines += [f"{rank:.2f}  {name}" for name, rank in zip(across.methods, across.mean_ranks, strict=True)]
    best = [i for i in across.improvement if i.a == across.methods[0]][:_PAIRS]
    if best:
        lines.append(
            f"Chance that a run of {across.methods[0]} beats one of another, on a data set drawn at random:"
        )
    lines += [f"{i.probability:.2f} ({i.low:.2f}..{i.high:.2f})  {i.b}" for i in best]
    return [*lines, *across.notes]


# A board as a grid of escaped text


@dataclass(frozen=True)
class Grid:
    """Headers and cells as text."""

    names: list[str]
    columns: list[Column]
    headers: list[str]
    rows: list[list[str]]

    @property
    def width(self) -> int:
        """Characters per line, with two between columns."""
        return sum(self.widths) + 2 * (len(self.widths) - 1)

    @property
    def widths(self) -> list[int]:
        """Width of each column."""
        return [max(map(cell_len, column)) for column in zip(self.headers, *self.rows, strict=True)]

    @property
    def align(self) -> list[str]:
        """`right` or `left` per column."""
        return ["right" if c.right else "left" for c in self.columns]

    def tabulate(self, style: str) -> str:
        """The table in one of tabulate's styles."""
        from tabulate import tabulate

        return tabulate(
            self.rows, headers=self.headers, tablefmt=style, disable_numparse=True, colalign=self.align
        )


def _grid(board: Board, view: View, escape: Callable[[str], str]) -> Grid:
    columns = chosen(board, view.columns, view.wide)
    if view.ids and view.columns is None:
        columns["ids"] = COLUMNS["ids"]
    rows = [[escape(c.cell(row, board)) for c in columns.values()] for row in board.rows]
    return Grid(list(columns), list(columns.values()), [escape(c.header) for c in columns.values()], rows)


def _fit(full: Grid, board: Board, width: int) -> tuple[Grid, list[str]]:
    """The grid without the columns that do not fit into a width in characters, and the dropped headers.

    Columns are dropped in the order of `FIRST_TO_GO`, then sizes and latencies of deployed files; the others are
    always kept.
    """
    keep = dict(zip(full.names, full.widths, strict=True))
    # a long name may take two lines
    if "method" in keep:
        place = full.names.index("method")
        longest = max(cell_len(word) for row in [full.headers, *full.rows] for word in row[place].split())
        keep["method"] = min(keep["method"], max(24, longest, int(0.42 * width)))
    measured = [n for n in reversed(keep) if n.startswith(DEPLOYED[1:])]
    for name in (*(n.format(by=board.by) for n in FIRST_TO_GO), *measured):
        if sum(keep.values()) + 2 * (len(keep) - 1) <= width:
            break
        keep.pop(name, None)
    at = [i for i, name in enumerate(full.names) if name in keep]
    dropped = [header for i, header in enumerate(full.headers) if i not in at]
    rows = [[row[i] for i in at] for row in full.rows]
    return Grid(
        [full.names[i] for i in at], [full.columns[i] for i in at], [full.headers[i] for i in at], rows
    ), dropped


# Formats


def render_plain(report: Report, view: View) -> bytes:
    """Aligned text without colours, for logs and e-mails; UTF-8."""
    sections = []
    headings = _headings(report.boards, view)
    boards, single = split(report.boards, headings)
    for board in boards:
        grid = _grid(board, view, clean)
        table, notes = grid.tabulate("simple"), map(clean, legend(board, grid.names))
        sections.append("\n".join([clean(headings[board.digest]), "", table, "", *notes, ""]))
    if single:
        sections.append("\n".join([SINGLE_ROW, *map(clean, single), ""]))
    sections += ["\n".join([*map(clean, across_lines(a)), ""]) for a in report.across]
    if report.notes:
        sections.append("\n".join([*map(clean, report.notes), ""]))
    return "\n".join(sections).encode()


def render_markdown(report: Report, view: View) -> bytes:
    """GitHub tables, one section per board; UTF-8."""

    def bullets(lines: Sequence[str]) -> str:
        return "\n".join(f"- {markdown(line)}" for line in lines)

    sections = []
    boards, single = split(report.boards)
    for board in boards:
        grid = _grid(board, view, markdown)
        notes = bullets(legend(board, grid.names))
        sections.append(f"## {markdown(title(board))}\n\n{grid.tabulate('github')}\n\n{notes}\n")
    if single:
        sections.append(f"{SINGLE_ROW}\n\n{bullets(single)}\n")
    sections += [f"## Across data sets\n\n{bullets(across_lines(a))}\n" for a in report.across]
    if report.notes:
        sections.append(f"{bullets(report.notes)}\n")
    return "\n".join(sections).encode()


_CELL = "padding:.25em .8em .25em 0;white-space:nowrap;text-align:{}"


def notebook(report: Report) -> str:
    """HTML for a notebook: a table per board, rank 1 in bold, unranked rows dim; how to read it folds away."""

    def line(tag: str, cells: Sequence[str], grid: Grid, style: str = "") -> str:
        inside = "".join(
            f'<{tag} style="{_CELL.format(align)}">{cell}</{tag}>'
            for cell, align in zip(cells, grid.align, strict=True)
        )
        return f'<tr style="{style}">{inside}</tr>'

    def folded(heading: str, notes: Sequence[str]) -> str:
        items = "".join(f"<li>{_html(note)}</li>" for note in notes)
        return f"<details><summary>{heading}</summary><ul>{items}</ul></details>" if items else ""

    parts = []
    headings = _headings(report.boards, View())
    boards, single = split(report.boards, headings)
    for board in boards:
        grid = _grid(board, View(), _html)
        rows = "".join(
            line("td", cells, grid, "opacity:.65" if r.rank is None else "font-weight:bold" * (r.rank == 1))
            for r, cells in zip(board.rows, grid.rows, strict=True)
        )
        parts.append(
            f'<h4>{_html(headings[board.digest])}</h4><div style="overflow-x:auto"><table>'
            f"<thead>{line('th', grid.headers, grid)}</thead><tbody>{rows}</tbody></table></div>"
            + folded("How to read it", legend(board, grid.names))
        )
    parts.append(folded("Boards of one row", single))
    parts += [folded("Over several data sets", across_lines(a)) for a in report.across]
    return "".join([*parts, *(f"<p>{_html(note)}</p>" for note in report.notes)])


def _html(text: str) -> str:
    return escape(clean(text))


def render_latex(report: Report, view: View) -> bytes:
    """One `table*` per board, for a paper; needs `\\usepackage{booktabs,graphicx}`."""
    head = "% \\usepackage{booktabs,graphicx}\n"
    return (head + "\n".join(_latex_table(b, view) for b in report.boards)).encode()


def _latex_table(board: Board, view: View) -> str:
    grid = _grid(board, view, latex)
    caption = latex(f"{title(board)}. {' '.join(legend(board, grid.names))}")
    lines = [
        r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}",
        r"\resizebox{\linewidth}{!}{%", rf"\begin{{tabular}}{{{''.join(a[0] for a in grid.align)}}}", r"\toprule",
        " & ".join(grid.headers) + r" \\", r"\midrule",
    ]  # fmt: skip
    last = board.rows[0].status if board.rows else "ranked"
    for row, cells in zip(board.rows, grid.rows, strict=True):
        if row.status != last:
            lines.append(r"\midrule")
            last = row.status
        marked = [rf"\textbf{{{c}}}" if row.rank == 1 and c else c for c in cells]
        lines.append(" & ".join(marked) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""]
    return "\n".join(lines)


def render_terminal(report: Report, view: View) -> bytes:
    """Tables drawn by rich: as many columns as fit the terminal, rank 1 in bold, unranked rows dim.

    UTF-8 text, with escape sequences if `view.colour`.
    """
    from rich.console import Console
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out, width=view.width, force_terminal=view.colour, no_color=not view.colour, highlight=False,
        markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    headings = _headings(report.boards, view)
    boards, single = split(report.boards, headings)
    for board in boards:
        grid = _grid(board, view, clean)
        dropped: list[str] = []
        # Chosen columns are never narrowed: long lines can be scrolled, but broken words cannot be read.
        whole = view.wide or view.ids or view.columns is not None
        if not whole:
            grid, dropped = _fit(grid, board, view.width)
        console.print(Text(clean(headings[board.digest]), style="bold"))
        console.print()
        console.width = max(view.width, grid.width) if whole else view.width
        console.print(_rich_table(board, grid))
        console.width = view.width
        console.print()
        notes = legend(board, grid.names)
        if dropped:
            notes.append(f"No room for: {', '.join(dropped)}. A wider terminal, --columns or --wide shows them.")
        for line in notes:
            console.print(Text(clean(line), style="dim"))
        console.print()
    if single:
        for line in (SINGLE_ROW, *single):
            console.print(Text(clean(line), style="dim"))
        console.print()
    for across in report.across:
        for line in across_lines(across):
            console.print(Text(clean(line)))
        console.print()
    for line in report.notes:
        console.print(Text(clean(line)))
    # rich pads lines to the width; trailing blanks are not wanted in a file
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines()).encode()


def _rich_table(board: Board, grid: Grid) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, column, heading in zip(grid.names, grid.columns, grid.headers, strict=True):
        side: Literal["left", "right"] = "right" if column.right else "left"
        words = [word for row in grid.rows for word in row[grid.names.index(name)].split()] or [""]
        table.add_column(
            Text(heading), justify=side, overflow="fold", no_wrap=name != "method",
            min_width=max(map(cell_len, words)) if name == "method" else None,
        )  # fmt: skip
    status = board.rows[0].status if board.rows else ""
    for row, cells in zip(board.rows, grid.rows, strict=True):
        if row.status != status:
            table.add_row()
            status = row.status
        style = "dim" if row.rank is None else "bold" if row.rank == 1 else ""
        table.add_row(*map(Text, cells), style=style)
    return table


__all__ = [
    "SINGLE_ROW", "across_lines", "legend", "notebook", "render_latex", "render_markdown", "render_plain",
    "render_terminal", "split", "title",
]  # fmt: skip
