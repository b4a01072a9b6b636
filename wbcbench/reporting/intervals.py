"""How sure the metrics of one record are: intervals over its test cells, and the same method on other seeds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from wbcbench.evaluation.metrics import METRICS
from wbcbench.leaderboard.statistics.features import features
from wbcbench.leaderboard.statistics.resampling import bootstrap
from wbcbench.records.store import Record, Store

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A metric of the test cells."""

    value: float | None
    """None: undefined."""
    low: float | None = None
    """The percentile bootstrap's 2.5 %; None where the value is."""
    high: float | None = None

    def text(self) -> str:
        """`0.753 (0.726 to 0.780)`."""
        if self.value is None:
            return "undefined"
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


@dataclass(frozen=True)
class Seeds:
    """The same method and protocol, on every seed that a store has."""

    seeds: tuple[int, ...]
    mean: float
    """Of test macro-F1."""
    sd: float | None
    """None with one seed."""


def metric_intervals(record: Record, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Metric -> value on the test cells with its 95 % interval; empty for a sealed record.

    Test cells are drawn with replacement, whole groups (donors) where the record knows them. It covers the
    choice of cells, not of the seed. Equal records give equal numbers.
    """
    arrays = record.predictions
    if "test_probabilities" not in arrays:
        return {}
    labels = arrays["test_labels"]
    groups = arrays.get("test_groups", np.arange(len(labels)))
    clusters = np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.intp)
    values = record.result.metrics["test"]
    if clusters.max() == 0:  # one donor: nothing can be drawn
        return {name: Interval(values[name]) for name in METRICS}
    table = features(arrays["test_probabilities"], labels, clusters)
    drawn = bootstrap([table], list(METRICS), resamples)[0]
    found = {}
    for name, row in zip(METRICS, drawn, strict=True):
        if values[name] is None or not np.isfinite(row).all():
            found[name] = Interval(values[name])
            continue
        low, high = np.quantile(row, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        bound = METRICS[name].range
        found[name] = Interval(values[name], float(np.clip(low, *bound)), float(np.clip(high, *bound)))
    return found


def other_seeds(record: Record, store: Store | None) -> Seeds | None:
    """The record and its siblings in the store; None where it is alone."""
    if store is None or record.result.status == "sealed":
        return None
    method = record.result.method_id
    records = [
        r for r in store.scan(verify=False)[0] if r.result.method_id == method and r.result.status == "done"
    ]
    scores = {r.result.seed: r.result.metrics["test"]["macro_f1"] or 0.0 for r in records}
    scores[record.result.seed] = record.result.metrics["test"]["macro_f1"] or 0.0
    if len(scores) < 2:
        return None
    return Seeds(tuple(sorted(scores)), statistics.fmean(scores.values()), statistics.stdev(scores.values()))


__all__ = ["LEVEL", "RESAMPLES", "Interval", "Seeds", "metric_intervals", "other_seeds"]
