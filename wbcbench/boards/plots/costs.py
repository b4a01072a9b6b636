"""What a row costs, and which rows no cheaper one beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wbcbench.boards.model import Row

Cost = Callable[[Row], float | None]

COSTS: dict[str, tuple[str, Cost]] = {
    "macs": ("MACs per cell", lambda r: r.macs),
    "params": ("parameters", lambda r: r.params),
    "latency": ("latency, ms at batch 1", lambda r: r.timing.latency_ms),
}
"""Name -> axis title and value."""


def frontier(rows: Sequence[Row], cost: Cost, by: str, higher: bool) -> list[Row]:
    """Rows that no cheaper or equally cheap row beats, cheapest first.

    Args:
        rows: of one board; those without the metric or the cost are passed over.
        cost: the smaller the better.
        by: a metric's name.
        higher: whether more of the metric is better.
    """
    points = []
    for row in rows:
        price, value = cost(row), row.metrics[by].mean
        if price is not None and value is not None:
            points.append((price, -value if higher else value, row.name, row))
    best, kept = float("inf"), []
    for _, loss, _, row in sorted(points, key=lambda p: p[:3]):
        if loss < best:
            best = loss
            kept.append(row)
    return kept
