"""The data of figures, computed once from a board; `paper` and `page` only draw it. Imports no plotting library.

The heat map is in a separate module, `heat_map`. A critical-difference diagram is drawn from the model's `Across`,
which already has ranks and groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wbcbench.boards.model import Across, Board, DeployedScore, Estimate, Row
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.records.deployed import KINDS

NONE = "none"
"""The name of no distillation on boards."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#888888")
"""Colours that colour-blind readers can distinguish.

Source: Okabe and Ito, "Color Universal Design" (2008).
"""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
"""Plotly's names."""


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> colour and symbol; after eight names the colours repeat with other symbols."""
    found: dict[str, tuple[str, str]] = {}
    for i, name in enumerate(dict.fromkeys(names)):
        found[name] = (OKABE_ITO[i % 8], SYMBOLS[(i + i // 8) % 8])
    return found


# Means with intervals


@dataclass(frozen=True)
class Mark:
    """A row's mean of the board's metric, with its 95 % interval."""

    row: Row
    value: float
    below: float
    """Length of the interval below the mean; 0 if there is no interval."""
    above: float


def _mark(row: Row, e: Estimate) -> Mark | None:
    if e.mean is None:
        return None
    # Rounding may put an end of a zero-length interval on the wrong side of the mean.
    below = 0.0 if e.low is None else max(0.0, e.mean - e.low)
    above = 0.0 if e.high is None else max(0.0, e.high - e.mean)
    return Mark(row, e.mean, below, above)


def bars(board: Board) -> tuple[Mark, ...]:
    """Every row whose metric is known, including references and incomplete rows, in the order of the board."""
    return tuple(mark for row in board.rows if (mark := _mark(row, row.metrics[board.by])) is not None)


def complete(board: Board) -> tuple[Mark, ...]:
    """`bars` without the incomplete rows."""
    return tuple(mark for mark in bars(board) if mark.row.status != "incomplete")


# Accuracy against cost


class Cost(NamedTuple):
    """A kind of cost; smaller is better."""

    title: str
    """Title of the axis."""
    name: str
    of: Callable[[Row], float | None]
    kind: str = ""
    """The deployed file that has this cost, and whose metric is drawn; empty: the trained network."""


def _file(kind: str, of: Callable[[DeployedScore], float | None]) -> Callable[[Row], float | None]:
    return lambda row: next((of(d) for d in row.deployed if d.kind == kind), None)


COSTS = {
    "macs": Cost("MACs per cell", "MACs", lambda r: r.macs),
    "params": Cost("parameters", "parameters", lambda r: r.params),
    "latency": Cost("latency, ms at batch 1", "latency", lambda r: r.timing.latency_ms),
    **{
        f"{kind}:{cost}": made
        for kind in KINDS
        for cost, made in (
            ("size", Cost(f"bytes of the {kind} file", f"{kind} size", _file(kind, lambda d: d.size), kind)),
            (
                "latency",
                Cost(
                    f"latency of the {kind} file, ms at batch 1, one thread", f"{kind} latency",
                    _file(kind, lambda d: d.timing.latency_ms), kind,
                ),
            ),
        )
    },
}  # fmt: skip


def cheapest_first(board: Board, cost: str) -> Board:
    """The board with its rows in the order of this one of `COSTS`; ranks stay, rows of unknown cost come last.

    Raises:
        UsageError: there is no such cost.
    """
    if cost not in COSTS:
        raise UsageError(f"No cost is called '{cost}'.{did_you_mean(cost, COSTS)} There are: {', '.join(COSTS)}.")
    of = COSTS[cost].of
    rows = sorted(board.rows, key=lambda r: math.inf if (value := of(r)) is None else value)
    unknown = sum(of(r) is None for r in rows)
    last = f"; that of {unknown} rows, the last ones, is unknown" if unknown else ""
    note = f"Rows are in the order of their {COSTS[cost].title}{last}."
    return board.model_copy(update={"rows": tuple(rows), "notes": (*board.notes, note)})


@dataclass(frozen=True)
class Point(Mark):
    """A row whose cost is known."""

    cost: float
    """Above zero."""


@dataclass(frozen=True)
class Series:
    """Rows of one distiller."""

    label: str
    colour: str
    symbol: str
    points: tuple[Point, ...]
    """Empty if no row of the distiller has this cost."""


@dataclass(frozen=True)
class Pareto:
    """The board's metric, of the trained networks or of their deployed files, against one cost."""

    cost: str
    """Of `COSTS`."""
    points: tuple[Point, ...]
    """In the order of the board; never empty."""
    series: tuple[Series, ...]
    """The same points by distiller, no distillation first."""
    frontier: tuple[Point, ...]
    """Points that no other point of the same or lower cost beats, cheapest first."""


def pareto(board: Board, cost: str) -> Pareto | None:
    """The complete rows of a board against one of `COSTS`; None if no row has this cost.

    Rows with zero cost cannot be shown on a logarithmic axis and are left out. A distiller has the same colour and
    symbol for every cost.
    """
    marks = complete(board)
    kind = COSTS[cost].kind
    drawn = marks if not kind else [f for m in marks for d in m.row.deployed if d.kind == kind
                                    if (f := _mark(m.row, d.value)) is not None]  # fmt: skip
    points = tuple(
        Point(m.row, m.value, m.below, m.above, price) for m in drawn if (price := COSTS[cost].of(m.row))
    )
    if not points:
        return None
    kds = sorted({m.row.kd for m in marks}, key=lambda kd: (kd != NONE, kd))
    series = tuple(
        Series(
            label="no distillation" if kd == NONE else kd,
            colour=colour,
            symbol=symbol,
            points=tuple(p for p in points if p.row.kd == kd),
        )
        for kd, (colour, symbol) in styles(kds).items()
    )
    return Pareto(cost, points, series, frontier(points, board.higher_is_better))


def frontier(points: Sequence[Point], higher_is_better: bool) -> tuple[Point, ...]:
    """Points that no other point of the same or lower cost beats, cheapest first."""
    sign = -1 if higher_is_better else 1
    best, kept = float("inf"), []
    for point in sorted(points, key=lambda p: (p.cost, sign * p.value, p.row.name)):
        if sign * point.value < best:
            best = sign * point.value
            kept.append(point)
    return tuple(kept)


# Missing modalities


@dataclass(frozen=True)
class Curve:
    """Macro-F1 of one row by subset of modalities."""

    row: Row
    colour: str
    symbol: str
    values: tuple[float | None, ...]
    """For every subset of the figure; None: this row was not evaluated with it."""


@dataclass(frozen=True)
class SubsetScores:
    """Macro-F1 with only some modalities present."""

    subsets: tuple[str, ...]
    """`brightfield+dapi`, smallest first."""
    curves: tuple[Curve, ...]


def subset_scores(board: Board) -> SubsetScores | None:
    """Rows whose records were evaluated with missing modalities; None if there are none."""
    examined = {r.method_id: (r, r.missing_modalities.subsets) for r in board.rows if r.missing_modalities}
    if not examined:
        return None
    subsets = tuple(sorted({s for _, scores in examined.values() for s in scores}, key=subset_order))
    curves = tuple(
        Curve(row, *style, tuple(scores.get(s) for s in subsets))
        for (row, scores), style in zip(examined.values(), styles(examined).values(), strict=True)
    )
    return SubsetScores(subsets, curves)


def subset_order(subset: str) -> tuple[int, str]:
    """Sort key of `brightfield+dapi`: by size, then by name."""
    return subset.count("+"), subset


# Mean ranks over several data sets


def without_power(across: Across) -> str:
    """The sentence for too few data sets to distinguish the methods by any test: see `Across.hopeless`."""
    most, sets = len(across.methods) - 1, len(across.boards)
    return (
        f"So few data sets could show nothing: mean ranks of {most + 1} methods differ by {most} at most, less "
        f"than {across.critical_difference:.2f}. That none can be told apart is because there are {sets} data "
        "sets, and says nothing of the methods."
    )


__all__ = [
    "COSTS", "NONE", "OKABE_ITO", "SYMBOLS", "Cost", "Curve", "Mark", "Pareto", "Point", "Series", "SubsetScores",
    "bars", "complete", "frontier", "pareto", "styles", "subset_order", "subset_scores", "without_power",
]  # fmt: skip
