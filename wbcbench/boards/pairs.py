"""Paired questions about the rows of one board, on the seeds that two of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wbcbench.boards.entries import METRIC_ORDER
from wbcbench.boards.judge import scatter
from wbcbench.boards.model import Board, Row
from wbcbench.boards.options import Options
from wbcbench.boards.pair import ClassShift, PairMcNemar
from wbcbench.boards.samples import Sample, clusters
from wbcbench.boards.statistics import Uncertainty, bootstrap, features, holm, mcnemar, uncertainty
from wbcbench.boards.statistics.ties import ALPHA
from wbcbench.evaluation.metrics import METRICS


class Pairs:
    """Answers on some seeds; rows that lack one of them must not be asked about."""

    def __init__(
        self, board: Board, samples: Mapping[str, Sequence[Sample]], seeds: Sequence[int], options: Options
    ) -> None:
        """`samples`: what counts of every row, by method id; see `samples.agreeing`."""
        self.board, self.seeds, self.options = board, list(seeds), options
        self.sign = 1.0 if METRICS[options.by].higher_is_better else -1.0
        self.clusters = clusters([s for own in samples.values() for s in own])
        by_seed = {m: {s.seed: s for s in own} for m, own in samples.items()}
        self.samples = {m: [own[s] for s in seeds] for m, own in by_seed.items() if set(seeds) <= set(own)}
        """Method id -> predictions of the shared seeds, in their order."""
        self._resampled: dict[str, Any] = {}
        self._scattered: tuple[dict[str, float], float] | None = None

    def mean(self, row: Row) -> float:
        """Of the compared metric, over shared seeds."""
        return float(np.mean(self._values(row.method_id)))

    def lead(self, a: Row, b: Row) -> Uncertainty:
        """How far a is ahead of b; positive is better."""
        x, y = self._bootstrap(a.method_id), self._bootstrap(b.method_id)
        values = self._values(a.method_id) - self._values(b.method_id)
        known = self._scatter()
        seeds = None if known is None else (known[0][a.method_id] + known[0][b.method_id], known[1])
        return uncertainty(self.sign * values, self.sign * (x - y), self.clusters.count, seeds)

    def mcnemar(self, a: Row, b: Row) -> Iterator[PairMcNemar]:
        """One test per seed: each is about two trained networks."""
        for seed, x, y in zip(self.seeds, self.samples[a.method_id], self.samples[b.method_id], strict=True):
            found = mcnemar(x.probabilities.argmax(1) == x.labels, y.probabilities.argmax(1) == y.labels)
            yield PairMcNemar(
                seed=seed, only_a=found.only_a, only_b=found.only_b, p=round(found.exact_p, 9),
                chi2=round(found.chi2, 9), chi2_p=round(found.chi2_p, 9),
            )  # fmt: skip

    def classes(self, a: Row, b: Row) -> Iterator[ClassShift]:
        """F1 of each class, a minus b, Holm over classes."""
        values, resampled = [], []
        for row in (a, b):
            tables = self._tables(row.method_id)
            values.append(np.stack([t.class_f1(t.columns.sum(0)[None])[0] for t in tables]))
            resampled.append(
                bootstrap(tables, (), self.options.resamples, self.options.bootstrap_seed, per_class=True)
            )
        judged = [
            uncertainty(
                values[0][:, k] - values[1][:, k], resampled[0][:, k] - resampled[1][:, k], self.clusters.count
            )
            for k in range(len(self.board.key.classes))
        ]
        adjusted = holm([u.p for u in judged])
        for name, u, p in zip(self.board.key.classes, judged, adjusted, strict=True):
            low, high = u.interval()
            yield ClassShift(
                name=name, f1=round(u.value, 9), low=round(low, 9), high=round(high, 9), p_holm=round(p, 9),
                beyond_noise=p < ALPHA,
            )  # fmt: skip

    def _scatter(self) -> tuple[dict[str, float], float] | None:
        if len(self.seeds) < 2:
            return None
        if self._scattered is None:
            values = {m: self._values(m) for m in self.samples}
            self._scattered = scatter({m: v for m, v in values.items() if np.isfinite(v).all()})
        return self._scattered

    def _values(self, method: str) -> Any:
        at = METRIC_ORDER.index(self.options.by)
        return np.array([s.found.entry.test[at] for s in self.samples[method]], dtype=np.float64)

    def _tables(self, method: str) -> list[Any]:
        return [features(s.probabilities, s.labels, self.clusters.of) for s in self.samples[method]]

    def _bootstrap(self, method: str) -> Any:
        if method not in self._resampled:
            o = self.options
            found = bootstrap(self._tables(method), (o.by,), o.resamples, o.bootstrap_seed)
            self._resampled[method] = found[:, 0]
        return self._resampled[method]


__all__ = ["Pairs"]
