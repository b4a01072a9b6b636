"""Names at the points of a figure: none on a mark, an interval, an axis or another name; the rest get numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_DISTANCES = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 52.0)
"""Typographical points between a mark and its name, tried in this order."""
_DIRECTIONS = tuple(2 * pi * i / 16 for i in (1, 7, 15, 9, 0, 8, 4, 12, 2, 6, 14, 10, 3, 5, 13, 11))
"""Upper right and upper left first."""
_LEADER = 12.0
"""From this distance a thin line joins a name to its mark."""


Place = tuple[float, float]


@dataclass(frozen=True)
class Spot:
    """A mark with its interval, in data coordinates."""

    x: float
    y: float
    below: float
    above: float
    name: str
    wanted: bool
    """Whether its name, and not a number, is written where there is room."""


def label(figure: Figure, axes: Axes, spots: Sequence[Spot], size: float, step: Sequence[Place] = ()) -> None:
    """Write every name next to its mark, or a number there and the name below the figure.

    Args:
        figure: with a constrained layout, which is carried out here.
        axes: contain the marks.
        spots: all marks; names are placed in this order.
        size: of the font, in points.
        step: the points of a drawn step line, which no name crosses.
    """
    named = [i for i, s in enumerate(spots) if s.wanted]
    height = figure.get_figheight()
    while True:
        rest = [i for i in range(len(spots)) if i not in named]
        numbers = {i: str(n) for n, i in enumerate(rest, 1)}
        key = "   ".join(f"{n} {spots[i].name}".replace(" ", "\u00a0") for i, n in numbers.items())
        columns = int(figure.get_figwidth() * 72 / (size - 1) / 0.56)
        below = fill(key, columns, break_long_words=False)
        figure.supxlabel(below, fontsize=size - 1)
        figure.set_figheight(height + (1 + below.count("\n")) * bool(below) * 1.3 * size / 72)
        figure.draw_without_rendering()
        placed, failed = _place(figure, axes, spots, [*named, *rest], numbers, size, step)
        lost = [i for i in failed if i in named]
        if not lost:
            figure.set_layout_engine("none")  # or the axes would move under the names
            return
        for text in placed:
            text.remove()
        named = [i for i in named if i not in lost]


def _place(
    figure: Figure,
    axes: Axes,
    spots: Sequence[Spot],
    order: Sequence[int],
    numbers: dict[int, str],
    size: float,
    step: Sequence[Place],
) -> tuple[list[Annotation], list[int]]:
    """The texts that were written, and the spots for whose name there is no room."""
    scale = figure.dpi / 72
    inside = axes.get_window_extent()
    taken = [box for s in spots for box in _boxes(axes, s, scale)] + list(_drawn(axes, step, scale))
    texts, failed = [], []
    for i in order:
        s = spots[i]
        text = axes.annotate(numbers.get(i, s.name), (s.x, s.y), xytext=(0, 0), textcoords="offset points",
                             fontsize=size, ha="center", va="center")  # fmt: skip
        box = text.get_window_extent()
        text.remove()
        offsets = ((a, u, d, box.translated(a * scale, u * scale)) for a, u, d in _offsets(box, scale))
        free = (o for o in offsets if _inside(o[3], inside) and not any(o[3].overlaps(t) for t in taken))
        if (found := next(free, None)) is None:
            failed.append(i)
            continue
        across, up, distance, there = found
        arrow = {"arrowstyle": "-", "lw": 0.5, "color": "#777777", "shrinkB": 3} if distance >= _LEADER else None
        texts.append(
            axes.annotate(numbers.get(i, s.name), (s.x, s.y), xytext=(across, up), textcoords="offset points",
                          fontsize=size, ha="center", va="center", arrowprops=arrow)
        )  # fmt: skip
        taken.append(there)
    return texts, failed


def _inside(box: Bbox, outer: Bbox) -> bool:
    return bool(outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1)


def _offsets(box: Bbox, scale: float) -> Iterator[tuple[float, float, float]]:
    """Offsets of a text's centre from its mark, in points, and the distance of its edge."""
    wide, high = box.width / scale / 2, box.height / scale / 2
    for distance in _DISTANCES:
        for angle in _DIRECTIONS:
            yield (wide + distance) * cos(angle), (high + distance) * sin(angle), distance


def _boxes(axes: Axes, s: Spot, scale: float) -> list[Bbox]:
    """What a mark and its interval cover, in pixels."""
    x, y = axes.transData.transform((s.x, s.y))
    low, high = (axes.transData.transform((s.x, s.y + d))[1] for d in (-s.below, s.above))
    r, cap = 4 * scale, 2.5 * scale
    return [Bbox.from_extents(x - r, y - r, x + r, y + r), Bbox.from_extents(x - cap, low, x + cap, high)]


def _drawn(axes: Axes, step: Sequence[Place], scale: float) -> Iterator[Bbox]:
    """What a step line covers that changes its height at each point, in pixels."""
    points = [axes.transData.transform(p) for p in step]
    for (x, y), (further, up) in pairwise(points):
        for x0, y0, x1, y1 in ((x, y, further, y), (further, min(y, up), further, max(y, up))):
            yield Bbox.from_extents(x0 - scale, y0 - scale, x1 + scale, y1 + scale)


__all__ = ["Spot", "label"]
