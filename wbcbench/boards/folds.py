"""Pools the folds of one method and seed: each fold's network judges the cells that it was not trained on.

To a board a fold is what a seed is, one more training. A method and seed are one unit: its predictions are those
of all folds together, and its metrics are computed from them, never averaged over folds.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wbcbench.boards.entries import METRIC_ORDER, Entry, Found, OutsideEntry
from wbcbench.boards.samples import Sample, load, pool
from wbcbench.boards.statistics import features
from wbcbench.errors import RecordError
from wbcbench.spec import digest

Folds = tuple[int, ...]


@dataclass(frozen=True)
class Pooled:
    """The units of one board."""

    found: list[Found] = field(default_factory=list)
    folds: Folds = ()
    """Those that a unit needs; empty: the split is one division."""
    lacking: dict[str, dict[int, Folds]] = field(default_factory=dict)
    """Method id -> seed -> folds that it lacks."""
    refused: dict[str, str] = field(default_factory=dict)
    """Trial id -> why its record cannot be read."""


def pooled(records: Iterable[Found], classes: int) -> Pooled:
    """One entry for the folds of each method and seed; records of a split without folds are returned as they are.

    A board needs the folds that most units have. A unit that lacks one is pooled from those that it has and named
    in `lacking`: its numbers are of other cells, so it can be shown but not compared.
    """
    units: dict[tuple[str, int], list[Found]] = {}
    whole: list[Found] = []
    for f in records:
        if f.entry.fold is None:
            whole.append(f)
        else:
            units.setdefault((f.entry.method_id, f.entry.seed), []).append(f)
    if not units:
        return Pooled(whole)
    sets = Counter(tuple(sorted(_fold(f) for f in unit)) for unit in units.values())
    usual = min(sets, key=lambda s: (-sets[s], -len(s), s))
    made = Pooled(whole, usual)
    for (method, seed), unit in units.items():
        unit = sorted((f for f in unit if _fold(f) in usual), key=_fold) or sorted(unit, key=_fold)
        missing = tuple(sorted(set(usual) - {_fold(f) for f in unit}))
        try:
            made.found.append(replace(unit[0], entry=_pool(unit, classes, made.refused), folds=tuple(unit)))
        except RecordError:
            missing = missing or usual
            continue
        finally:
            if missing:
                made.lacking.setdefault(method, {})[seed] = missing
    return made


def _fold(found: Found) -> int:
    assert found.entry.fold is not None
    return found.entry.fold


def _pool(unit: Sequence[Found], classes: int, refused: dict[str, str]) -> Entry:
    """The entry of a unit. Raises `RecordError` if a record cannot be read, which it adds to `refused`."""
    samples: list[Sample] = []
    for f in unit:
        try:
            samples.append(load(f, classes))
        except RecordError as error:
            refused[f.entry.trial_id] = str(error)
            raise
    one = pool(samples, unit[0])
    sums = features(one.probabilities, one.labels, np.zeros(len(one.labels), dtype=np.intp))
    metrics = sums.metrics(sums.columns)
    entries = [f.entry for f in unit]
    first = entries[0]
    return replace(
        first,
        stamp=digest([e.stamp for e in entries]),
        digest=digest([e.digest for e in entries]),
        teachers=tuple(dict.fromkeys(t for e in entries for t in e.teachers)),
        outside=tuple(_outside(same) for same in zip(*(e.outside for e in entries), strict=True)),
        test=tuple(float(metrics[m][0]) if np.isfinite(metrics[m][0]) else None for m in METRIC_ORDER),
        val=tuple(mean_of_all([e.val[i] for e in entries]) for i in range(len(METRIC_ORDER))),
        latency_ms=mean_of_all([e.latency_ms for e in entries]),
        throughput=mean_of_all([e.throughput for e in entries]),
        train_seconds=mean_of_all([e.train_seconds for e in entries]),
    )


def _outside(folds: tuple[OutsideEntry, ...]) -> OutsideEntry:
    """A teacher from outside over the folds that it taught for."""
    seen = [t.seen for t in folds]
    every = [t.test for t in folds]
    return replace(
        folds[0],
        seen=None if None in seen else sum(s for s in seen if s is not None),
        test=tuple(mean_of_all(values) for values in zip(*every, strict=True)) if all(every) else (),
    )


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; None if one is undefined, or there are none."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


__all__ = ["Folds", "Pooled", "mean_of_all", "pooled"]
