"""An empty figure in the style that all of them share."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one pair of axes; inches. Not pyplot's: no backend, no global state, no window."""
    figure = Figure(figsize=(width, max(2.2, height)), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.grid(color="#E2E2DE", lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08, y=0.08)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


__all__ = ["canvas"]
