"""The critical-difference diagram.

Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006), figure 1.
"""

from __future__ import annotations

from math import ceil, floor

from matplotlib.figure import Figure

from wbcbench.boards.columns import HEADERS
from wbcbench.boards.model import Across
from wbcbench.boards.plots.palette import OKABE_ITO
from wbcbench.boards.text import clean

_BAR, _NAME = 0.34, 0.42
"""Heights from bar to bar and from name to name, in units of 1/2.2 inch."""


def critical_difference(across: Across) -> Figure:
    """Mean ranks on one axis, best at the left; a bar joins methods that Nemenyi's test cannot tell apart.

    Names stand at the sides, the better half at the left, each joined to its rank by a line.
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


__all__ = ["critical_difference"]
