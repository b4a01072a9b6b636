"""What a column of the page sorts by, where its text would not do."""

from __future__ import annotations

from wbcbench.boards.model import METRIC_NAMES, Row

FAR = float("1e300")
"""Of a cell that is empty: behind all others, best first."""


def order(name: str, row: Row) -> float | None:
    """A number; None: the column sorts by its text."""
    if name == "rank":
        return _or_far(row.rank)
    if name in METRIC_NAMES:
        return _or_far(row.metrics[name].mean)
    if name.endswith("_interval") and name.removesuffix("_interval") in METRIC_NAMES:
        return _or_far(row.metrics[name.removesuffix("_interval")].low)
    for start, difference in (("over_single", row.over_single), ("over_no_kd", row.over_no_kd)):
        if name.startswith(start):
            return _or_far(difference.value if difference is not None else None)
    numbers: dict[str, float | None] = {
        "params": row.params, "macs": row.macs, "latency": row.timing.latency_ms, "n": row.n,
        "throughput": row.timing.throughput, "search": row.search.trials if row.search else None,
        "teacher_cost": row.teaching.train_seconds if row.teaching else None,
        "worst_subset": row.missing_modalities.worst_macro_f1 if row.missing_modalities else None,
    }  # fmt: skip
    return _or_far(numbers[name]) if name in numbers else None


def _or_far(value: float | None) -> float:
    return FAR if value is None else value


__all__ = ["FAR", "order"]
