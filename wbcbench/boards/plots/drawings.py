"""Each kind of figure as a function of a report's boards, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from wbcbench.boards.columns import HEADERS
from wbcbench.boards.model import Board, Report, Row
from wbcbench.boards.plots.canvas import canvas
from wbcbench.boards.plots.costs import COSTS, frontier
from wbcbench.boards.plots.difference import critical_difference
from wbcbench.boards.plots.heat_map import heat_map
from wbcbench.boards.plots.palette import MARKERS, OKABE_ITO, styles
from wbcbench.boards.text import clean
from wbcbench.errors import UsageError

Draw = Callable[[Report, str], Figure]
FEW = 12
"""Rows that a plot has room to name; of more, it names those that are not beaten."""


def pareto(report: Report, cost: str) -> Figure:
    """The board's metric against a cost (log scale), with 95 % intervals; a step joins what is not beaten."""
    board = _only(report)
    title, price = COSTS[cost]
    rows = [r for r in _shown(board) if price(r)]  # what costs nothing has no place on a logarithmic axis
    if not rows:
        raise UsageError(f"No row of this board says what it costs in {title}.")
    figure, axes = canvas(7.0, 4.6)
    for kd, (colour, symbol) in styles(sorted({r.kd for r in rows}, key=lambda k: (k != "none", k))).items():
        mine = [r for r in rows if r.kd == kd]
        axes.errorbar(
            [float(price(r) or 0) for r in mine], [_mean(r, board) for r in mine], yerr=_errors(mine, board),
            fmt=MARKERS[symbol], color=colour, ms=6, lw=0, elinewidth=0.8, capsize=2,
            label="no distillation" if kd == "none" else clean(kd),
        )  # fmt: skip
    best = frontier(rows, price, board.by, board.higher_is_better)
    axes.step(
        [float(price(r) or 0) for r in best], [_mean(r, board) for r in best], where="post", ls=":",
        color="#4D4D4D", label="not beaten at its cost",
    )  # fmt: skip
    _logarithmic(axes)
    named = rows if len(rows) <= FEW else best
    _names(axes, [(float(price(r) or 0), _mean(r, board), clean(r.name)) for r in named])
    axes.set_xlabel(title)
    axes.set_ylabel(HEADERS[board.by])
    axes.legend(fontsize=8, frameon=False)
    return figure


def _names(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside their points, on the side where there is room; those of neighbours below each other."""
    line, near = 10.0, 90.0  # typographical points
    middle = (min(x for x, *_ in points) * max(x for x, *_ in points)) ** 0.5
    placed: list[tuple[bool, float, float]] = []
    for x, y, name in sorted(points, key=lambda p: -p[1]):
        across, up = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
        right, at = x <= middle, up + 4
        for side, there, height in placed:
            if side == right and abs(there - across) < near and abs(height - at) < line:
                at = height - line
        placed.append((right, across, at))
        axes.annotate(
            name, (x, y), xytext=(5 if right else -5, at - up), textcoords="offset points",
            ha="left" if right else "right", fontsize=8,
        )  # fmt: skip


def bars(report: Report, cost: str) -> Figure:
    """Every row's metric with its 95 % interval, best first; references and incomplete rows are grey."""
    board = _only(report)
    rows = [r for r in board.rows if r.metrics[board.by].mean is not None]
    figure, axes = canvas(6.4, 0.9 + 0.26 * len(rows))
    places = np.arange(len(rows))
    colours = [OKABE_ITO[0] if r.status == "ranked" else "#9A9A9A" for r in rows]
    axes.errorbar([_mean(r, board) for r in rows], places, xerr=_errors(rows, board), fmt="none",
                  ecolor=colours,  # type: ignore[arg-type]
                  elinewidth=1.4)  # fmt: skip
    axes.scatter([_mean(r, board) for r in rows], places, c=colours, s=26, zorder=3)
    axes.set_yticks(places, [clean(r.name) for r in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{HEADERS[board.by]}, mean and 95 % interval")
    return figure


def heatmap(report: Report, cost: str) -> Figure:
    """Fusion x distiller, one panel per arrangement of teachers; see `heat_map`."""
    board = _only(report)
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


def missing(report: Report, cost: str) -> Figure:
    """Macro-F1 for every subset of modalities, where records were examined."""
    board = _only(report)
    rows = [r for r in board.rows if r.missing_modalities is not None]
    if not rows:
        raise UsageError("No record of this board was examined. `wbcbench run ... --evaluate full` does it.")
    found = {s for r in rows if r.missing_modalities for s in r.missing_modalities.subsets}
    subsets = sorted(found, key=lambda s: (s.count("+"), s))
    figure, axes = canvas(1.6 + 1.1 * len(subsets), 4.4)
    for row, (colour, symbol) in zip(rows, styles(r.method_id for r in rows).values(), strict=True):
        assert row.missing_modalities is not None
        values = [row.missing_modalities.subsets.get(s, np.nan) for s in subsets]
        axes.plot(range(len(subsets)), values, marker=MARKERS[symbol], color=colour, lw=1.2, label=clean(row.name))
    axes.set_xticks(range(len(subsets)), [clean(s).replace("+", "\n+ ") for s in subsets], fontsize=8)
    axes.set_xlabel("modalities that are there")
    axes.set_ylabel("macro-F1")
    axes.legend(fontsize=8, frameon=False)
    return figure


def cd(report: Report, cost: str) -> Figure:
    """Critical-difference diagram of the first comparison over several data sets."""
    if not report.across:
        raise UsageError(
            "A critical-difference diagram needs three methods that are ranked on two or more data sets. "
            "Name more stores: --store A --store B."
        )
    return critical_difference(report.across[0])


KINDS: dict[str, Draw] = {"pareto": pareto, "cd": cd, "heatmap": heatmap, "bars": bars, "missing": missing}


def _logarithmic(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of every decade, or at decades alone where there are many: 500, 1k, 2k."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
    large = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 1000 else large(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _only(report: Report) -> Board:
    if len(report.boards) != 1:
        keys = "\n".join(
            f"  --key {b.digest}  {b.key.dataset}, {' + '.join(b.key.modalities)}" for b in report.boards
        )
        raise UsageError(f"Expected one board to draw, but there are {len(report.boards)}. Choose:\n{keys}")
    return report.boards[0]


def _shown(board: Board) -> list[Row]:
    return [r for r in board.rows if r.status != "incomplete" and r.metrics[board.by].mean is not None]


def _mean(row: Row, board: Board) -> float:
    mean = row.metrics[board.by].mean
    assert mean is not None
    return mean


def _errors(rows: Sequence[Row], board: Board) -> list[list[float]]:
    below, above = [], []
    for row in rows:
        e, mean = row.metrics[board.by], _mean(row, board)
        below.append(0.0 if e.low is None else max(0.0, mean - e.low))
        above.append(0.0 if e.high is None else max(0.0, e.high - mean))
    return [below, above]


__all__ = ["KINDS"]
