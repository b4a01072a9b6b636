"""Figures for a paper, drawn with matplotlib: pdf, svg or png, and equal boards give equal bytes.

A second renderer in addition to `page`, because plotly needs a browser to write a vector file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from math import ceil, floor
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from wbcbench.boards.columns import HEADERS
from wbcbench.boards.figures import data
from wbcbench.boards.figures.data import COSTS, OKABE_ITO, SYMBOLS, Mark
from wbcbench.boards.figures.heat_map import heat_map
from wbcbench.boards.model import Across, Board, Report
from wbcbench.boards.text import clean
from wbcbench.errors import UsageError
from wbcbench.files import atomic_write_bytes

KINDS = ("pareto", "cd", "heatmap", "bars", "missing")
SUFFIXES = ("pdf", "svg", "png")

_MARKERS = dict(zip(SYMBOLS, "osD^PX*h", strict=True))
"""Plotly's names of symbols -> matplotlib's."""
_MOST_NAMES = 12
"""Maximum number of rows to label; if there are more, only those on the frontier are labelled."""
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


def save(report: Report, kind: str, path: Path, cost: str = "macs") -> None:
    """Draw one of `KINDS` and write it as pdf, svg or png, by the file's suffix.

    The bytes depend only on the figure: no date, no random ids.

    Raises:
        UsageError: another suffix, or nothing to draw.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in SUFFIXES:
        raise UsageError(f"Expected a file that ends in .{', .'.join(SUFFIXES)}, but got '{path.name}'.")
    buffer = io.BytesIO()
    with rc_context(_SETTINGS):
        draw(report, kind, cost).savefig(buffer, format=suffix, metadata=_METADATA[suffix], dpi=200)
    atomic_write_bytes(path, buffer.getvalue())


def draw(report: Report, kind: str, cost: str = "macs") -> Figure:
    """Draw one of `KINDS`.

    Args:
        report: with one board; for `cd`, with a comparison over several data sets, of which the first is drawn.
        kind: one of `KINDS`.
        cost: one of `COSTS`, for `pareto`.

    Raises:
        UsageError: there is nothing to draw.
    """
    if kind == "cd":
        if not report.across:
            raise UsageError(
                "A critical-difference diagram needs three methods that are ranked on two or more data sets. "
                "Name more stores: --store A --store B."
            )
        return _critical_difference(report.across[0])
    if len(report.boards) != 1:
        keys = "\n".join(f"  --key {b.digest}  {b.name}" for b in report.boards)
        raise UsageError(f"Expected one board to draw, but there are {len(report.boards)}. Choose:\n{keys}")
    (board,) = report.boards
    if kind == "pareto":
        return _pareto(board, cost)
    others: dict[str, Callable[[Board], Figure]] = {"heatmap": _heat_map, "bars": _bars, "missing": _missing}
    return others[kind](board)


def _pareto(board: Board, cost: str) -> Figure:
    """The board's metric against a cost (log scale), with 95 % intervals; a step joins the frontier."""
    found = data.pareto(board, cost)
    if found is None:
        raise UsageError(f"No row of this board has a known cost in {COSTS[cost].title}.")
    figure, axes = _canvas(7.0, 4.6)
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
    named = found.points if len(found.points) <= _MOST_NAMES else found.frontier
    _label(axes, [(p.cost, p.value, clean(p.row.name)) for p in named])
    axes.set_xlabel(COSTS[cost].title)
    axes.set_ylabel(HEADERS[board.by])
    axes.legend(fontsize=8, frameon=False)
    return figure


def _bars(board: Board) -> Figure:
    """Every row's metric with its 95 % interval, best first; references and incomplete rows are grey."""
    marks = data.bars(board)
    figure, axes = _canvas(6.4, 0.9 + 0.26 * len(marks))
    lines, means = np.arange(len(marks)), [m.value for m in marks]
    colours = [OKABE_ITO[0] if m.row.status == "ranked" else "#9A9A9A" for m in marks]
    axes.errorbar(means, lines, xerr=_errors(marks), fmt="none",
                  ecolor=colours,  # type: ignore[arg-type]
                  elinewidth=1.4)  # fmt: skip
    axes.scatter(means, lines, c=colours, s=26, zorder=3)
    axes.set_yticks(lines, [clean(m.row.name) for m in marks], fontsize=8)
    axes.set_ylim(len(marks) - 0.4, -0.6)
    axes.set_xlabel(f"{HEADERS[board.by]}, mean and 95 % interval")
    return figure


def _heat_map(board: Board) -> Figure:
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
    figure.colorbar(image, ax=list(panels), label=HEADERS[board.by])
    figure.supxlabel(fill(clean(found.note), 20 + 11 * sum(columns)), fontsize=7)
    return figure


def _missing(board: Board) -> Figure:
    """Macro-F1 for every subset of modalities, for rows whose records were evaluated in full."""
    found = data.subset_scores(board)
    if found is None:
        raise UsageError("No record of this board was evaluated in full. Run `wbcbench run ... --evaluate full`.")
    figure, axes = _canvas(1.6 + 1.1 * len(found.subsets), 4.4)
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
    title = f"mean rank by {HEADERS[across.by]} over {len(across.boards)} data sets (1 is best)"
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


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names next to their points, on the side with room, and below the name of a nearby point."""
    line, near = 10.0, 90.0  # typographical points
    middle = (min(x for x, *_ in points) * max(x for x, *_ in points)) ** 0.5
    placed: list[tuple[bool, float, float]] = []
    for x, y, name in sorted(points, key=lambda p: -p[1]):
        across, up = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
        right, at = x <= middle, up + 4
        for other_right, other_across, height in placed:
            if other_right == right and abs(other_across - across) < near and abs(height - at) < line:
                at = height - line
        placed.append((right, across, at))
        axes.annotate(
            name, (x, y), xytext=(5 if right else -5, at - up), textcoords="offset points",
            ha="left" if right else "right", fontsize=8,
        )  # fmt: skip


def _logarithmic(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of every decade, or only at decades if there are many: 500, 1k, 2k."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
    large = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 1000 else large(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


__all__ = ["KINDS", "SUFFIXES", "draw", "save"]
