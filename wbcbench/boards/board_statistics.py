"""The statistics of one board, from its records' predictions; cached next to the index, keyed by their inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wbcbench.boards.entries import METRIC_ORDER, Found
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, agreeing, clusters, enough
from wbcbench.boards.statistics import Uncertainty, bootstrap, features, seed_variance, uncertainty
from wbcbench.boards.statistics.hypothesis_tests import Scale
from wbcbench.errors import WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.spec import digest

STATISTICS_VERSION = 3
"""Incremented, with `Kept.version`, when any number below would change."""
_BATCH = 100_000_000
"""Maximum bytes of features and of resampled metrics in memory."""

SCALES: dict[str, Scale] = {
    "macro_f1": "logit", "balanced_accuracy": "logit", "accuracy": "logit", "auroc": "logit", "nll": "log",
    "brier": "log", "ece": "log",
}  # fmt: skip

Array = NDArray[Any]


class Kept(BaseModel):
    """What is cached: small, and sufficient to answer the same question again."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[3]
    test_cells: int = Field(0, ge=0)
    clusters: int = Field(0, ge=0)
    grouped: bool = False
    refused: dict[str, str]
    """Trial id -> reason."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """Method id -> metric -> low, high."""
    pairs: dict[str, tuple[float, float, float]]
    """`a|b` -> value, se, df of a minus b."""
    notes: tuple[str, ...] = ()


class BoardStatistics:
    """Intervals of every method of a board, and the uncertainty of any paired difference.

    Predictions are read only for results that are not cached.
    """

    def __init__(
        self, methods: Mapping[str, Sequence[Found]], options: Options, root: Path, classes: int,
        metrics: Sequence[str] = METRIC_ORDER,
    ) -> None:  # fmt: skip
        """`metrics` are those that need intervals, including the board's metric."""
        self.metrics = tuple(metrics)
        self.methods = {m: list(records) for m, records in methods.items()}
        self.options = options
        self.classes = classes
        self._path = root / "index" / "statistics" / f"{self._question()}.json"
        self._resampled: dict[str, Array] = {}
        self._values: dict[str, Array] = {}
        self._scatters: dict[tuple[int, ...], tuple[dict[str, float], float]] = {}
        self._changed = False
        kept = _load(self._path) if options.index else None
        if kept is None:
            self.kept = Kept(version=3, refused={}, intervals={}, pairs={})
            self._resample()
        else:
            self.kept = kept

    @property
    def enough(self) -> bool:
        """Whether there are enough cells, or groups of them, for intervals and tests."""
        return enough(self.kept.clusters, self.kept.grouped)

    def interval(self, method: str, metric: str) -> tuple[float, float] | None:
        """95 % interval of a method's mean; None if the metric is undefined."""
        return self.kept.intervals.get(method, {}).get(metric)

    def pair(self, a: str, b: str) -> Uncertainty:
        """Method `a` minus method `b` on the board's metric, over the seeds of `a`, all of which `b` must have."""
        name = f"{a}|{b}"
        if name not in self.kept.pairs:
            if not self._resampled:
                self._resample()
            seeds = tuple(f.entry.seed for f in self.methods[a])
            at = self._at(b, seeds)
            known = self._scatter(seeds)
            u = uncertainty(
                self._values[a] - self._values[b][at],
                self._resampled[a].astype(np.float64) - self._resampled[b][at],
                self.kept.clusters,
                None if known is None else (known[0][a] + known[0][b], known[1]),
            )
            self.kept.pairs[name] = (round(u.value, 12), round(u.se, 12), round(u.df, 6))
            self._changed = True
        return Uncertainty(*self.kept.pairs[name])

    def pooled(self, mine: Sequence[str], base: Sequence[str], every: Sequence[Sequence[str]]) -> Uncertainty:
        """Mean of some methods minus mean of as many others, on the board's metric.

        Args:
            mine: methods that all have the same seeds.
            base: the same.
            every: sets like these two, including them, from which the variance of such means between seeds is
                estimated.
        """
        if not self._resampled:
            self._resample()
        seeds = tuple(f.entry.seed for f in self.methods[mine[0]])

        def mean(of: Mapping[str, Array], names: Sequence[str]) -> Array:
            total = sum((of[m][self._at(m, seeds)].astype(np.float64) for m in names), start=np.zeros(()))
            return np.asarray(total) / len(names)

        known = None
        if len(seeds) > 1:
            spread, df = scatter({json.dumps(names): mean(self._values, names) for names in every})
            known = spread[json.dumps(mine)] + spread[json.dumps(base)], df
        return uncertainty(
            mean(self._values, mine) - mean(self._values, base),
            mean(self._resampled, mine) - mean(self._resampled, base),
            self.kept.clusters,
            known,
        )

    def _at(self, method: str, seeds: Sequence[int]) -> list[int]:
        there = [f.entry.seed for f in self.methods[method]]
        return [there.index(seed) for seed in seeds]

    def _scatter(self, seeds: tuple[int, ...]) -> tuple[dict[str, float], float] | None:
        """Variance between these seeds, and its degrees of freedom, from every method that has them all."""
        if len(seeds) < 2:
            return None
        if seeds not in self._scatters:
            able = [m for m in self._values if set(seeds) <= {f.entry.seed for f in self.methods[m]}]
            values = {m: self._values[m][self._at(m, seeds)] for m in able}
            self._scatters[seeds] = scatter({m: v for m, v in values.items() if np.isfinite(v).all()})
        return self._scatters[seeds]

    def save(self) -> None:
        """Cache the results, if any are new and the store can be written."""
        if self._changed and self.options.index:
            with suppress(WbcbenchError):
                atomic_write_bytes(self._path, self.kept.model_dump_json().encode())

    def _question(self) -> str:
        o = self.options
        records = [
            [m, [f.entry.trial_id + f.entry.stamp + f.entry.digest for f in r]] for m, r in self.methods.items()
        ]
        metrics = [] if self.metrics == METRIC_ORDER else [self.metrics]
        return digest([STATISTICS_VERSION, o.by, o.resamples, o.bootstrap_seed, records, *metrics], length=32)

    def _resample(self) -> None:
        self._changed = True
        samples, self.kept.refused = agreeing(self.methods, self.classes)
        self.methods = {m: [s.found for s in samples.get(m, ())] for m in self.methods}
        if not samples:
            return
        found = clusters([s for own in samples.values() for s in own])
        self.kept.test_cells, self.kept.clusters, self.kept.grouped = len(found.of), found.count, found.grouped
        self.kept.notes = found.notes
        if not found.enough:
            return
        width = 8 * (self.kept.clusters * (3 * self.classes + 19) + len(self.metrics) * self.options.resamples)
        batch: list[tuple[str, list[Sample]]] = []
        size = 0
        for method, own in samples.items():
            batch.append((method, own))
            size += width * len(own)
            if size >= _BATCH:
                self._judge(batch, found.of)
                batch, size = [], 0
        if batch:
            self._judge(batch, found.of)

    def _judge(self, batch: Sequence[tuple[str, Sequence[Sample]]], clusters: NDArray[np.intp]) -> None:
        tables = [features(s.probabilities, s.labels, clusters, self.metrics) for _, own in batch for s in own]
        found = bootstrap(tables, self.metrics, self.options.resamples, self.options.bootstrap_seed)
        by, places = self.metrics.index(self.options.by), [METRIC_ORDER.index(m) for m in self.metrics]
        at = 0
        for method, own in batch:
            part = found[at : at + len(own)]
            values = np.array([s.found.entry.test for s in own], dtype=np.float64)[:, places]
            at += len(own)
            limits = {}
            for i, metric in enumerate(self.metrics):
                if np.isfinite(values[:, i]).all() and np.isfinite(part[:, i]).all():
                    u = uncertainty(values[:, i], part[:, i], self.kept.clusters)
                    low, high = u.interval(scale=SCALES[metric])
                    limits[metric] = (round(low, 9), round(high, 9))
            self.kept.intervals[method] = limits
            self._values[method] = values[:, by]
            self._resampled[method] = part[:, by].astype(np.float32)


def scatter(values: Mapping[str, Array]) -> tuple[dict[str, float], float]:
    """Variance between seeds of each method, and its degrees of freedom, from values [seeds] of them all."""
    found = seed_variance(list(values.values()))
    return dict(zip(values, map(float, found.rows), strict=True)), found.df


def _load(path: Path) -> Kept | None:
    try:
        return Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


__all__ = ["SCALES", "STATISTICS_VERSION", "BoardStatistics", "Kept", "scatter"]
