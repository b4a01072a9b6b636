"""The values of records: those that they state, and those of other metrics, computed from their predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.boards.columns import COLUMNS
from wbcbench.boards.entries import METRIC_ORDER, Found
from wbcbench.boards.folds import mean_of_all
from wbcbench.boards.model import MoreMetric
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, load, pool
from wbcbench.boards.statistics.bootstrap import LOOPED
from wbcbench.contracts.metric import FromCounts, MeanOverCells, Metric
from wbcbench.errors import RecordError, UsageError
from wbcbench.evaluation.scorers import ORDINAL, Scorer, called, class_values, readable, scorer, value_of
from wbcbench.records import verify as checks
from wbcbench.records.schema import ComparisonKey

Both = tuple[float | None, float | None]
"""On the test split and on validation."""


@cache
def of_order() -> tuple[Scorer, ...]:
    """The metrics that boards and records of ordered classes have."""
    from wbcbench.registry.loading import PluginOptions, load_plugins

    registry, _ = load_plugins(PluginOptions(block_all=True))
    return tuple(scorer(registry, name) for name in ORDINAL)


def options_of(options: Options, key: ComparisonKey) -> Options:
    """The options of one board: ordered classes have the metrics that use the order, whoever makes the board."""
    if not key.ordered:
        return options
    there = {s.name for s in options.metrics}
    return replace(options, metrics=(*options.metrics, *(s for s in of_order() if s.name not in there)))


@dataclass
class Values:
    """The values of the records of one board."""

    classes: tuple[str, ...]
    scorers: tuple[Scorer, ...] = ()
    more: dict[str, Metric] = field(default_factory=dict)
    """The metrics that records do not state, by name."""
    _known: dict[tuple[str, ...], dict[str, Both]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Options, key: ComparisonKey) -> Values:
        """Of a board with these options, see `options_of`. Raises `IncompatibleError` for a metric without a value
        on such a board."""
        for s in options.metrics:
            if s.name in COLUMNS:
                raise UsageError(f"A column of boards is called '{s.name}'. Give the metric another name.")
        more = {s.name: s.of(key.classes, key.ordered) for s in options.metrics}
        return cls(key.classes, options.metrics, more)

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics: those that records state, in the order of entries, and the others."""
        return (*METRIC_ORDER, *self.more)

    def test(self, found: Found, name: str) -> float | None:
        """On the test split; of several folds, of all predictions together. Raises `RecordError`."""
        return found.entry.test[METRIC_ORDER.index(name)] if name in METRIC_ORDER else self._both(found)[name][0]

    def val(self, found: Found, name: str) -> float | None:
        """On validation; of several folds, the mean. Raises `RecordError`."""
        return found.entry.val[METRIC_ORDER.index(name)] if name in METRIC_ORDER else self._both(found)[name][1]

    def of_cells(self, probabilities: NDArray[Any], labels: NDArray[Any], name: str) -> float | None:
        """One of `more` for any cells."""
        return value_of(self.more[name], probabilities, labels)

    def of_class(self, probabilities: NDArray[Any], labels: NDArray[Any], name: str, place: int) -> float | None:
        """One of `more`, which has a value per class, for one class."""
        metric = self.more[name]
        given = readable(metric, probabilities)
        value = float(called(name, lambda: class_values(metric, given, labels))[place])
        return value if np.isfinite(value) else None

    def unreadable(self, records: Iterable[Found]) -> dict[str, str]:
        """Trial id -> why its predictions cannot be read, where there is a metric that needs them."""
        bad = {}
        for found in (r for f in records for r in f.records) if self.more else ():
            try:
                self._both(found)
            except RecordError as error:
                bad[found.entry.trial_id] = str(error)
        return bad

    def looped(self, resamples: int) -> list[str]:
        """A note on the metrics with fewer resamples than others, if there are any."""
        slow = [n for n, m in self.more.items() if not isinstance(m, FromCounts | MeanOverCells)]
        if not slow or resamples <= LOOPED:
            return []
        return [f"Intervals by {', '.join(slow)} are from the first {LOOPED} of the {resamples} resamples."]

    def described(self) -> tuple[MoreMetric, ...]:
        """What a board states of `more`."""
        found = []
        for s in self.scorers:
            low, high = s.cls.range
            found.append(
                MoreMetric(
                    name=s.name, doc=s.doc, higher_is_better=s.cls.higher_is_better, low=low, high=high,
                    per_class=s.cls.per_class, sha256=s.code,
                )
            )  # fmt: skip
        return tuple(found)

    def _both(self, found: Found) -> dict[str, Both]:
        ids = tuple(r.entry.trial_id for r in found.records)
        if ids not in self._known:
            samples = [load(r, len(self.classes)) for r in found.records]
            one = pool(samples, found) if found.folds else samples[0]
            self._known[ids] = {
                name: (value_of(m, one.probabilities, one.labels), self._val(samples, m))
                for name, m in self.more.items()
            }
        return self._known[ids]

    def _val(self, samples: Sequence[Sample], metric: Metric) -> float | None:
        """The mean over folds."""
        values = []
        for s in samples:
            arrays = checks.read_predictions(s.found.path)
            try:
                p, labels = arrays["val_probabilities"], arrays["val_labels"]
                shaped = p.shape == (len(labels), len(self.classes)) and len(labels) > 0
                if not shaped or not 0 <= labels.min() <= labels.max() < len(self.classes):
                    raise ValueError("has validation arrays of another shape or range")
            except (KeyError, ValueError) as error:
                raise checks.refuse(s.found.path, "predictions.npz", str(error)) from None
            values.append(value_of(metric, p, labels))
        return mean_of_all(values)


__all__ = ["Values", "of_order", "options_of"]
