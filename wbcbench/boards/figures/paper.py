"""Figures for a paper, drawn with matplotlib: pdf, svg or png, and equal boards give equal bytes.

A second renderer in addition to `page`, because plotly needs a browser to write a vector file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from wbcbench.boards.columns import header
from wbcbench.boards.figures import data
from wbcbench.boards.figures.data import COSTS, OKABE_ITO, SYMBOLS, Mark
from wbcbench.boards.figures.heat_map import heat_map
from wbcbench.boards.figures.labels import Spot, label
from wbcbench.boards.model import Across, Board, Report, Row
from wbcbench.boards.text import clean, spreadsheet
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.files import atomic_write_bytes

KINDS = ("pareto", "cd", "heatmap", "bars", "missing")
SUFFIXES = ("pdf", "svg", "png")

_MARKERS = dict(zip(SYMBOLS, "osD^PX*h", strict=True))
"""Plotly's names of symbols -> matplotlib's."""
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "wbcbench", "Producer": None},
    "svg": {"Date": None, "Creator": "wbcbench"},
    "png": {"Software": "wbcbench"},
}
_SETTINGS: Any = {
    "pdf.fonttype": 42,  # TrueType: journals refuse type 3
    "svg.hashsalt": "wbcbench",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name does not start a formula
    "font.size": 9,
    "font.family": "sans-serif",
}


@dataclass(frozen=True)
class Look:
    """What of a board is drawn, and how wide."""

    cost: str = "macs"
    """One of `COSTS`, for `pareto`."""
    top: int | None = None
    """Only so many of the best ranked rows."""
    only: tuple[str, ...] = ()
    """Only these rows, by name or by the beginning of a method's id; empty: all."""
    width: Literal["one", "two"] = "two"
    """Columns of a journal's page."""

    @property
    def inches(self) -> float:
        """Width of the figure."""
        return 3.5 if self.width == "one" else 7.0

    @property
    def size(self) -> float:
        """Of the names, in points."""
        return 7.0 if self.width == "one" else 8.0


def save(report: Report, kind: str, path: Path, look: Look | None = None) -> Path:
    """Draw one of `KINDS` and write it as pdf, svg or png, by the file's suffix, and its data beside it as CSV.

    The bytes depend only on the figure: no date, no random ids.

    Returns:
        The path of the CSV file.

    Raises:
        UsageError: another suffix, or nothing to draw.
    """
    look = look or Look()
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in SUFFIXES:
        raise UsageError(f"Expected a file that ends in .{', .'.join(SUFFIXES)}, but got '{path.name}'.")
    buffer = io.BytesIO()
    shown = _chosen(report, kind, look)
    with rc_context(_SETTINGS):
        draw(shown, kind, look).savefig(buffer, format=suffix, metadata=_METADATA[suffix], dpi=200)
    atomic_write_bytes(path, buffer.getvalue())
    beside = path.with_suffix(".csv")
    atomic_write_bytes(beside, table(shown, kind, look.cost))
    return beside


def _chosen(report: Report, kind: str, look: Look) -> Report:
    """The report with the rows that `look` names; a comparison over several boards is left as it is."""
    if kind == "cd" or not (look.top or look.only) or len(report.boards) != 1:
        return report
    (board,) = report.boards
    rows = list(board.rows)
    for name in look.only:
        if not any(_is(r, name) for r in rows):
            names = [r.name for r in rows]
            near = did_you_mean(name, names)
            raise UsageError(f"No row is called '{name}'.{near} There are: {', '.join(names)}.")
    rows = [r for r in rows if not look.only or any(_is(r, name) for name in look.only)]
    if look.top:
        ranked = [r for r in rows if r.status == "ranked"][: look.top]
        rows = ranked or rows[: look.top]
    return report.model_copy(update={"boards": (board.model_copy(update={"rows": tuple(rows)}),)})


def _is(row: Row, name: str) -> bool:
    return row.name == name or (len(name) >= 6 and row.method_id.startswith(name))


def draw(report: Report, kind: str, look: Look | None = None) -> Figure:
    """Draw one of `KINDS`.

    Args:
        report: with one board; for `cd`, with a comparison over several data sets, of which the first is drawn.
        kind: one of `KINDS`.
        look: its `top` and `only` are not considered: see `save`.

    Raises:
        UsageError: there is nothing to draw.
    """
    look = look or Look()
    with rc_context(_SETTINGS):
        return _drawn(report, kind, look)


def _drawn(report: Report, kind: str, look: Look) -> Figure:
    if kind == "cd":
        return _critical_difference(_across(report))
    board = _board(report)
    if kind == "pareto":
        return _pareto(board, look)
    others: dict[str, Callable[[Board, Look], Figure]] = {"heatmap": _heat_map, "bars": _bars, "missing": _missing}
    return others[kind](board, look)


def _across(report: Report) -> Across:
    if not report.across:
        raise UsageError(
            "A critical-difference diagram needs three methods that are ranked on two or more data sets. "
            "Name more stores: --store A --store B."
        )
    return report.across[0]


def _board(report: Report) -> Board:
    if len(report.boards) != 1:
        keys = "\n".join(f"  --key {b.digest}  {b.name}" for b in report.boards)
        raise UsageError(f"Expected one board to draw, but there are {len(report.boards)}. Choose:\n{keys}")
    return report.boards[0]


def table(report: Report, kind: str, cost: str = "macs") -> bytes:
    """The data of a figure as CSV, at full precision. Raises what `draw` raises."""
    if kind == "cd":
        across = _across(report)
        return _csv(["method", "mean rank"], zip(across.methods, across.mean_ranks, strict=True))
    board = _board(report)
    ends = [f"{board.by}", "low", "high"]

    def values(m: Mark) -> list[object]:
        return [m.value, m.value - m.below, m.value + m.above]

    if kind == "bars":
        marks = data.bars(board)
        return _csv(["method", "status", *ends], ([m.row.name, m.row.status, *values(m)] for m in marks))
    if kind == "pareto" and (found := data.pareto(board, cost)) is not None:
        lines = ([p.row.name, p.row.kd, p.cost, *values(p), p in found.frontier] for p in found.points)
        return _csv(["method", "kd", COSTS[cost].title, *ends, "on the front"], lines)
    if kind == "heatmap" and (shown := heat_map(board)) is not None:
        cells = (
            [panel.title, fusion, kd, value]
            for panel in shown.panels
            for fusion, line in zip(shown.fusions, panel.values, strict=True)
            for kd, value in zip(panel.kds, line, strict=True)
            if value is not None
        )
        return _csv(["teachers", "fusion", "kd", board.by], cells)
    scores = data.subset_scores(board)
    curves = () if scores is None else scores.curves
    return _csv(["method", *(scores.subsets if scores else ())], ([c.row.name, *c.values] for c in curves))


def _csv(head: Sequence[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(spreadsheet, head))
    writer.writerows([spreadsheet(v) if isinstance(v, str) else v for v in row] for row in rows)
    return text.getvalue().encode()


def _pareto(board: Board, look: Look) -> Figure:
    """The board's metric against a cost (log scale), with 95 % intervals; a step joins the frontier.

    Rows on the frontier, and those that were asked for by name, are named; the others have numbers.
    """
    cost = look.cost
    found = data.pareto(board, cost)
    if found is None:
        raise UsageError(f"No row of this board has a known cost in {COSTS[cost].title}.")
    figure, axes = _canvas(look.inches, 3.1 if look.width == "one" else 4.6)
    for series in found.series:
        if series.points:
            axes.errorbar(
                [p.cost for p in series.points], [p.value for p in series.points], yerr=_errors(series.points),
                fmt=_MARKERS[series.symbol], color=series.colour, ms=6, lw=0, elinewidth=0.8, capsize=2,
                label=clean(series.label),
            )  # fmt: skip
    axes.step(
        [p.cost for p in found.frontier], [p.value for p in found.frontier], where="post", ls=":",
        color="#4D4D4D", label="not beaten at its cost",
    )  # fmt: skip
    _logarithmic(axes)
    axes.set_xlabel(COSTS[cost].title)
    axes.set_ylabel(header(board.by))
    figure.legend(
        fontsize=look.size, frameon=False, loc="outside upper center", ncols=2 if look.width == "one" else 4
    )  # outside: it covers no mark
    first = sorted(found.points, key=lambda p: p not in found.frontier)
    spots = [
        Spot(p.cost, p.value, p.below, p.above, clean(p.row.name), p in found.frontier or bool(look.only))
        for p in first
    ]
    label(figure, axes, spots, look.size, [(p.cost, p.value) for p in found.frontier])
    return figure


def _bars(board: Board, look: Look) -> Figure:
    """Every row's metric with its 95 % interval, best first; references and incomplete rows are grey."""
    marks = data.bars(board)
    names = [fill(clean(m.row.name), 30 if look.width == "one" else 60) for m in marks]
    figure, axes = _canvas(look.inches, 0.9 + 0.26 * sum(1 + name.count("\n") for name in names))
    lines, means = np.arange(len(marks)), [m.value for m in marks]
    colours = [OKABE_ITO[0] if m.row.status == "ranked" else "#9A9A9A" for m in marks]
    axes.errorbar(means, lines, xerr=_errors(marks), fmt="none",
                  ecolor=colours,  # type: ignore[arg-type]
                  elinewidth=1.4)  # fmt: skip
    axes.scatter(means, lines, c=colours, s=26, zorder=3)
    axes.set_yticks(lines, names, fontsize=look.size)
    axes.set_ylim(len(marks) - 0.4, -0.6)
    axes.set_xlabel(f"{header(board.by)} and 95 % interval", fontsize=look.size)
    return figure


def _heat_map(board: Board, look: Look) -> Figure:
    """Fusion x distiller, one panel per arrangement of teachers."""
    found = heat_map(board)
    if found is None:
        raise UsageError(
            "A heat map needs at least two fusions and two distillers on one backbone. "
            "--kind bars shows this board."
        )
    columns = [len(p.kds) for p in found.panels]
    low, high = found.extent
    figure = Figure(
        figsize=(2.2 + 0.62 * sum(columns), max(2.2, 1.4 + 0.32 * len(found.fusions))), layout="constrained"
    )
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False, width_ratios=columns)[0]
    for panel, axes in zip(found.panels, panels, strict=True):
        table = np.array(panel.values, dtype=float)
        image = axes.imshow(
            table, cmap="cividis" if board.higher_is_better else "cividis_r", aspect="auto", vmin=low, vmax=high
        )
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                light = (value > (low + high) / 2) == board.higher_is_better
                axes.text(
                    j, i, f"{value:.3f}", ha="center", va="center", fontsize=8,
                    color="black" if light else "white",
                )  # fmt: skip
        axes.set_title(fill(clean(panel.title), 12 + 11 * len(panel.kds)), fontsize=8)
        axes.set_xticks(range(len(panel.kds)), [clean(k) for k in panel.kds], rotation=40, ha="right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(found.fusions)), [clean(f) for f in found.fusions], fontsize=8)
    figure.colorbar(image, ax=list(panels), label=header(board.by))
    figure.supxlabel(fill(clean(found.note), 20 + 11 * sum(columns)), fontsize=7)
    return figure


def _missing(board: Board, look: Look) -> Figure:
    """Macro-F1 for every subset of modalities, for rows whose records were evaluated in full."""
    found = data.subset_scores(board)
    if found is None:
        raise UsageError("No record of this board was evaluated in full. Run `wbcbench run ... --evaluate full`.")
    figure, axes = _canvas(max(look.inches, 0.5 * len(found.subsets)), 4.4)
    for curve in found.curves:
        values = [np.nan if v is None else v for v in curve.values]
        axes.plot(range(len(values)), values, marker=_MARKERS[curve.symbol], color=curve.colour, lw=1.2,
                  label=clean(curve.row.name))  # fmt: skip
    names = [clean(s).replace("+", "\n+ ") for s in found.subsets]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("modalities that are there")
    axes.set_ylabel("macro-F1")
    axes.legend(fontsize=8, frameon=False)
    return figure


_BAR, _NAME = 0.34, 0.42
"""Heights of a bar and of a name in the critical-difference diagram, in units of 1/2.2 inch."""


def _critical_difference(across: Across) -> Figure:
    """Mean ranks on one axis, best at the left; a bar joins methods that Nemenyi's test cannot distinguish.

    Names are at the sides, the better half at the left, each joined to its rank by a line.

    Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006), figure 1.
    """
    ranks = dict(zip(across.methods, across.mean_ranks, strict=True))
    low = floor(min(ranks.values()))
    high = max(ceil(max(ranks.values())), ceil(low + across.critical_difference))
    width = high - low
    half = (len(ranks) + 1) // 2
    top = _BAR * (len(across.groups) + 0.6)
    depth = top + _NAME * half
    figure = Figure(figsize=(6.8, (depth + 1.6) / 2.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.plot([low, high], [0, 0], color="black", lw=1)
    for x in range(low, high + 1):
        axes.plot([x, x], [0, 0.12], color="black", lw=1)
        axes.text(x, 0.16, str(x), ha="center", va="bottom", fontsize=8)
    title = f"mean rank by {header(across.by)} over {len(across.boards)} data sets (1 is best)"
    if across.hopeless:
        title += f"\nnothing could show: {len(ranks)} mean ranks differ by {len(ranks) - 1} at most"
    axes.text((low + high) / 2, 1.0, title, ha="center", va="bottom", fontsize=9)
    right = low + across.critical_difference
    axes.plot([low, right], [0.75, 0.75], color="black", lw=1.2, marker="|", ms=7)
    axes.text(right + 0.02 * width, 0.75, f"CD {across.critical_difference:.2f}", va="center", fontsize=8)
    for i, group in enumerate(across.groups):
        ends = [ranks[m] for m in group]
        y = -_BAR * (i + 0.7)
        axes.plot([min(ends), max(ends)], [y, y], color=OKABE_ITO[1], lw=4, solid_capstyle="round")
    for i, (name, rank) in enumerate(ranks.items()):
        left = i < half
        y = -top - _NAME * ((i if left else len(ranks) - 1 - i) + 0.3)
        side, out = (low, -1) if left else (high, 1)
        axes.plot([rank, rank, side + out * 0.04 * width], [0, y, y], color=OKABE_ITO[0], lw=0.9, zorder=1)
        text = f"{clean(name)}  {rank:.2f}" if left else f"{rank:.2f}  {clean(name)}"
        axes.text(side + out * 0.055 * width, y, text, ha="right" if left else "left", va="center", fontsize=8)
    axes.set_ylim(-depth, 1.2)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, size in inches. Not from pyplot: no backend, no global state, no window."""
    figure = Figure(figsize=(width, max(2.2, height)), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.grid(color="#E2E2DE", lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08, y=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _errors(marks: Sequence[Mark]) -> list[list[float]]:
    return [[m.below for m in marks], [m.above for m in marks]]


def _logarithmic(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of every decade, or only at decades if there are many: 500, 1k, 2k."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
    large = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 1000 else large(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


__all__ = ["KINDS", "SUFFIXES", "Look", "draw", "save", "table"]
