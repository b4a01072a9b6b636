"""The statistics of one board, from its records' predictions; cached next to the index, keyed by their inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wbcbench.boards.entries import METRIC_ORDER, Found
from wbcbench.boards.gather import usual_seeds
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, agreeing, clusters, enough
from wbcbench.boards.statistics import (
    Contrasts,
    Uncertainty,
    bootstrap,
    bootstrap_of,
    features,
    seed_variance,
    uncertainty,
)
from wbcbench.boards.statistics.hypothesis_tests import Scale
from wbcbench.boards.values import Values
from wbcbench.errors import WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.spec import digest

STATISTICS_VERSION = 4
"""Incremented, with `Kept.version`, when any number below would change."""
_BATCH = 100_000_000
"""Maximum bytes of features and of resampled metrics in memory."""

SCALES: dict[str, Scale] = {
    "macro_f1": "logit", "balanced_accuracy": "logit", "accuracy": "logit", "auroc": "logit", "nll": "log",
    "brier": "log", "ece": "log",
}  # fmt: skip

Array = NDArray[Any]


def scale_of(metric: str, limits: tuple[float, float]) -> Scale:
    """The scale of a metric's intervals; of one that is not built in, by its range."""
    low, high = limits
    return SCALES.get(metric, "linear" if low != 0 else "logit" if high == 1 else "log")


def lead_interval(u: Uncertainty, options: Options) -> tuple[float, float]:
    """95 % interval of a difference, within what is possible for the metric that ranks."""
    return u.interval(limits=(-options.widest, options.widest))


def resampled(
    samples: Sequence[Sample], clusters: NDArray[np.intp], metrics: Sequence[str], values: Values, options: Options
) -> Array:
    """[samples, metrics, resamples] of the metrics of samples of the same cells."""
    stated = [m for m in metrics if m not in values.more]
    found = np.empty((len(samples), len(metrics), options.resamples))
    if stated:
        tables = [features(s.probabilities, s.labels, clusters, stated) for s in samples]
        drawn = bootstrap(tables, stated, options.resamples, options.bootstrap_seed)
        found[:, [metrics.index(m) for m in stated]] = drawn
    for name in set(metrics) - set(stated):
        for row, s in zip(found[:, metrics.index(name)], samples, strict=True):
            row[:] = bootstrap_of(
                values.more[name], s.probabilities, s.labels, clusters, options.resamples, options.bootstrap_seed
            )
    return found


class Lead(BaseModel):
    """The best mean compared with another row's; p-values are None if there is nothing to say of other seeds."""

    model_config = ConfigDict(extra="forbid")

    value: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    """Over all pairs of ranked rows."""
    p_best: float | None
    """That the other row is a best one; see `Contrasts.best`."""


class Standing(BaseModel):
    """How the ranked rows of a board compare."""

    model_config = ConfigDict(extra="forbid")

    methods: tuple[str, ...]
    """From best to worst mean."""
    leads: tuple[Lead, ...]
    """Of the first over each other one, in their order."""
    detectable: float | None
    """See `Contrasts.detectable`."""


class Kept(BaseModel):
    """What is cached: small, and sufficient to answer the same question again."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[4]
    test_cells: int = Field(0, ge=0)
    clusters: int = Field(0, ge=0)
    effective: float = 0
    """Of `clusters`, allowing for their sizes."""
    grouped: bool = False
    refused: dict[str, str]
    """Trial id -> reason."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """Method id -> metric -> low, high."""
    pairs: dict[str, tuple[float, float, float, bool]]
    """`a|b` -> value, se, df of a minus b; False: of one seed, over cells only."""
    standing: Standing | None = None
    notes: tuple[str, ...] = ()


class Spread(NamedTuple):
    """Variances between seeds, by method id, with their degrees of freedom."""

    of: dict[str, float]
    df: float

    def difference(self, a: str, b: str) -> tuple[float, float]:
        """Of a minus b."""
        return self.of[a] + self.of[b], self.df

    def rows(self, methods: Sequence[str]) -> tuple[Array, float]:
        """[K], in this order."""
        return np.array([self.of[m] for m in methods]), self.df


def spread(values: Mapping[str, Mapping[int, float]], seeds: Sequence[int], paired: bool = True) -> Spread | None:
    """Variances between these seeds, estimated from every method that has them all.

    One seed has none: then the variances are those of the seeds that most methods have, and a method without them
    gets what the others say of it. None: they say nothing.

    Args:
        values: method id -> seed -> value.
        seeds: those of the methods that are compared.
        paired: see `seed_variance`.
    """
    several = [there for m in values if len(there := tuple(sorted(values[m]))) > 1]
    used = tuple(seeds) if len(seeds) > 1 else usual_seeds(several)
    able = {m: [own[s] for s in used] for m, own in values.items() if set(used) <= own.keys()}
    if len(used) < 2 or len(able) < 2:
        return None
    found = seed_variance(list(able.values()), paired)
    known = dict(zip(able, map(float, found.rows), strict=True))
    if len(seeds) > 1:
        return Spread(known, found.df)
    if math.isnan(found.other):
        return None
    return Spread(dict.fromkeys(values, found.other) | known, found.other_df)


class BoardStatistics:
    """Intervals of every method of a board, and the uncertainty of any paired difference.

    Predictions are read only for results that are not cached.
    """

    def __init__(
        self, methods: Mapping[str, Sequence[Found]], options: Options, root: Path, values: Values,
        metrics: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """`metrics` are those that need intervals, including the board's metric; None: all."""
        self.metrics = values.names if metrics is None else tuple(metrics)
        self.values = values
        self.methods = {m: list(records) for m, records in methods.items()}
        self.options = options
        self.classes = len(values.classes)
        self._path = root / "index" / "statistics" / f"{self._question()}.json"
        self._resampled: dict[str, Array] = {}
        self._values: dict[str, Array] = {}
        self._spreads: dict[tuple[int, ...], Spread | None] = {}
        self._changed = False
        kept = _load(self._path) if options.index else None
        if kept is None:
            self.kept = Kept(version=4, refused={}, intervals={}, pairs={})
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
            known = self._spread(seeds)
            u = uncertainty(
                self._values[a] - self._values[b][at],
                self._resampled[a].astype(np.float64) - self._resampled[b][at],
                self.kept.effective,
                None if known is None else known.difference(a, b),
            )
            self.kept.pairs[name] = (round(u.value, 12), round(u.se, 12), round(u.df, 6), u.seeds)
            self._changed = True
        value, se, df, known_seeds = self.kept.pairs[name]
        return Uncertainty(value, se, df, seeds=known_seeds)

    def standing(self, methods: Sequence[str], higher_is_better: bool) -> Standing:
        """How these methods, which have the same seeds, compare on the board's metric; best mean first."""
        kept = self.kept.standing
        if kept is None or set(kept.methods) != set(methods):
            kept = self.kept.standing = self._compared(list(methods), 1.0 if higher_is_better else -1.0)
            self._changed = True
        return kept

    def _compared(self, methods: list[str], sign: float) -> Standing:
        if not self._resampled:
            self._resample()
        seeds = tuple(f.entry.seed for f in self.methods[methods[0]])
        at = {m: self._at(m, seeds) for m in methods}
        known = self._spread(seeds)
        every = Contrasts.of(
            sign * np.stack([self._values[m][at[m]] for m in methods]),
            sign * np.stack([self._resampled[m][at[m]] for m in methods]),
            self.kept.effective,
            None if known is None else known.rows(methods),
        )
        p, p_holm, p_best = every.p(), every.p_holm(), every.best()
        first, *others = sorted(range(len(methods)), key=lambda i: (-every.value[i, 0], methods[i]))
        leads = []
        for i in others:
            u = every.pair(first, i)
            low, high = lead_interval(u, self.options)
            leads.append(
                Lead(
                    value=round(u.value, 9), low=round(low, 9), high=round(high, 9), p=defined(p[first, i]),
                    p_holm=defined(p_holm[first, i]), p_best=defined(p_best[i]),
                )
            )  # fmt: skip
        return Standing(
            methods=tuple(methods[i] for i in (first, *others)), leads=tuple(leads),
            detectable=defined(every.detectable()),
        )  # fmt: skip

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

        found = {
            json.dumps(names): dict(zip(seeds, map(float, mean(self._values, names)), strict=True))
            for names in every
        }
        known = spread(found, seeds)
        return uncertainty(
            mean(self._values, mine) - mean(self._values, base),
            mean(self._resampled, mine) - mean(self._resampled, base),
            self.kept.effective,
            None if known is None else known.difference(json.dumps(mine), json.dumps(base)),
        )

    def _at(self, method: str, seeds: Sequence[int]) -> list[int]:
        there = [f.entry.seed for f in self.methods[method]]
        return [there.index(seed) for seed in seeds]

    def _spread(self, seeds: tuple[int, ...]) -> Spread | None:
        if seeds not in self._spreads:
            self._spreads[seeds] = spread(self._by_seed(self.options.by), seeds)
        return self._spreads[seeds]

    def _by_seed(self, metric: str) -> dict[str, dict[int, float]]:
        return {
            m: {f.entry.seed: v for f in records if (v := self.values.test(f, metric)) is not None}
            for m, records in self.methods.items()
        }

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
        metrics: list[Any] = [] if self.metrics == METRIC_ORDER else [self.metrics]
        metrics += [s.identity for s in self.values.scorers if s.name in self.metrics]
        return digest([STATISTICS_VERSION, o.by, o.resamples, o.bootstrap_seed, records, *metrics], length=32)

    def _resample(self) -> None:
        self._changed = True
        samples, self.kept.refused = agreeing(self.methods, self.classes)
        self.methods = {m: [s.found for s in samples.get(m, ())] for m in self.methods}
        if not samples:
            return
        found = clusters([s for own in samples.values() for s in own])
        self.kept.test_cells, self.kept.clusters, self.kept.grouped = len(found.of), found.count, found.grouped
        self.kept.effective = found.effective
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
        samples = [s for _, own in batch for s in own]
        found = resampled(samples, clusters, self.metrics, self.values, self.options)
        by, ranges = self.metrics.index(self.options.by), [self.options.properties(m).range for m in self.metrics]
        alone = {m: spread(self._by_seed(m), (0,), paired=False) for m in self.metrics}
        at = 0
        for method, own in batch:
            part = found[at : at + len(own)]
            stated = [[self.values.test(s.found, m) for m in self.metrics] for s in own]
            values = np.array(stated, dtype=np.float64)
            at += len(own)
            limits = {}
            for i, metric in enumerate(self.metrics):
                if np.isfinite(values[:, i]).all() and np.isfinite(part[:, i]).all():
                    one = alone[metric] if len(own) == 1 else None
                    u = uncertainty(
                        values[:, i], part[:, i], self.kept.effective, one and (one.of[method], one.df)
                    )
                    low, high = u.interval(scale=scale_of(metric, ranges[i]), limits=ranges[i])
                    limits[metric] = (round(low, 9), round(high, 9))
            self.kept.intervals[method] = limits
            self._values[method] = values[:, by]
            self._resampled[method] = part[:, by].astype(np.float32)


def defined(value: float) -> float | None:
    """Rounded as in every output; None for NaN."""
    return None if math.isnan(value) else round(float(value), 9)


def _load(path: Path) -> Kept | None:
    try:
        return Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


__all__ = [
    "SCALES", "STATISTICS_VERSION", "BoardStatistics", "Kept", "Lead", "Spread", "Standing", "defined",
    "lead_interval", "resampled", "scale_of", "spread",
]  # fmt: skip
