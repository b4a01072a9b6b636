"""Paired comparison of two rows of a board, on the seeds that they share, and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wbcbench.boards.board_statistics import scatter
from wbcbench.boards.columns import HEADERS
from wbcbench.boards.entries import METRIC_ORDER
from wbcbench.boards.model import Board, Row
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, clusters
from wbcbench.boards.statistics import Uncertainty, bootstrap, features, holm, mcnemar, uncertainty
from wbcbench.boards.statistics.hypothesis_tests import ALPHA
from wbcbench.evaluation.metrics import METRICS
from wbcbench.records.schema import Strict


class PairMcNemar(Strict):
    """Two trained networks of one seed."""

    seed: int
    only_a: int
    """Number of cells that only A got right."""
    only_b: int
    p: float
    """Exact, two-sided."""
    chi2: float
    chi2_p: float


class ClassShift(Strict):
    """F1 of one class, A minus B."""

    name: str
    f1: float
    low: float
    high: float
    p_holm: float
    """Corrected over the classes."""
    beyond_noise: bool


class Ratio(Strict):
    """A cost of A as a multiple of B's."""

    what: str
    a: float
    b: float
    ratio: float


class Explanation(Strict):
    """The comparison of two methods of one board."""

    board: str
    by: str
    a: str
    b: str
    a_id: str
    b_id: str
    seeds: tuple[int, ...]
    """The shared seeds, on which all numbers are based."""
    a_mean: float
    b_mean: float
    lead: float
    """Of A; positive means better."""
    low: float
    high: float
    p: float
    comparisons: int
    """Number of pairs that could have been compared: all pairs of A, B and the ranked rows."""
    p_holm: float
    beyond_noise: bool
    mcnemar: tuple[PairMcNemar, ...]
    classes: tuple[ClassShift, ...]
    cost: tuple[Ratio, ...]
    differences: tuple[str, ...]
    """Differences of the methods' specifications: `field: A's != B's`."""
    splits: str | None = None
    """The test over several splits of the same data, if there are any."""
    refused: tuple[str, ...] = ()
    """Records of this board that were left out, and why."""

    def lines(self) -> list[str]:
        """The comparison in plain words, one paragraph per line. Not escaped."""
        metric = HEADERS[self.by]
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        found = [f"A = {self.a} (id {self.a_id})", f"B = {self.b} (id {self.b_id})", ""]
        found.append(f"{metric} over {seeds}: A {self.a_mean:.4f}, B {self.b_mean:.4f}.")
        found.append(self._verdict())
        if self.comparisons > 1:
            word = "still" if self.p_holm < 0.05 else "no longer" if self.beyond_noise else "not"
            found.append(
                f"As one of the {self.comparisons} pairs on this board (Holm): p = {self.p_holm:.3g}, "
                f"{word} beyond noise."
            )
        if self.splits:
            found.append(self.splits)
        found += ["", "Cells that only one of the two gets right (McNemar, exact):"]
        found += [f"  seed {m.seed}: only A {m.only_a}, only B {m.only_b}, p = {m.p:.3g}" for m in self.mcnemar]
        found += [
            "",
            "F1 by class, A minus B (95 % interval of each); verdicts are corrected for all (Holm):",
        ]
        for c in sorted(self.classes, key=lambda c: (-c.f1, c.name)):
            word = ("gains" if c.f1 > 0 else "loses") if c.beyond_noise else "no clear change"
            found.append(f"  {c.name}: {c.f1:+.4f} ({c.low:+.4f} to {c.high:+.4f}), {word}")
        found += [
            "",
            "Cost of A as a multiple of B's: " + ", ".join(f"{r.what} {r.ratio:.3g}x" for r in self.cost),
        ]
        found += ["", "What differs in their specifications (A != B):"]
        found += [f"  {line}" for line in self.differences] or ["  nothing"]
        if self.refused:
            found += ["", "Left out of this board:", *(f"  {reason}" for reason in self.refused)]
        return found

    def _verdict(self) -> str:
        first, second = ("A", "B") if self.lead >= 0 else ("B", "A")
        size, low, high = abs(self.lead), min(abs(self.low), abs(self.high)), max(abs(self.low), abs(self.high))
        kind = "cells and seeds" if len(self.seeds) > 1 else "cells; one seed says nothing of others"
        if self.beyond_noise:
            return (
                f"{first} is better than {second} by {size:.4f} (95 % interval {low:.4f} to {high:.4f}, "
                f"p = {self.p:.3g}; over {kind}): beyond noise."
            )
        return (
            f"{first} is ahead by {size:.4f}, but A - B may be anything from {self.low:+.4f} to {self.high:+.4f} "
            f"(95 % interval, p = {self.p:.3g}; over {kind}): not beyond noise."
        )


class Pairs:
    """Comparisons on some seeds; every row must have all of them."""

    def __init__(
        self, board: Board, samples: Mapping[str, Sequence[Sample]], seeds: Sequence[int], options: Options
    ) -> None:
        """`samples`: the valid predictions of every row, by method id; see `samples.agreeing`."""
        self.board, self.seeds, self.options = board, list(seeds), options
        self.sign = 1.0 if METRICS[options.by].higher_is_better else -1.0
        self.clusters = clusters([s for own in samples.values() for s in own])
        by_seed = {m: {s.seed: s for s in own} for m, own in samples.items()}
        self.samples = {m: [own[s] for s in seeds] for m, own in by_seed.items() if set(seeds) <= set(own)}
        """Method id -> predictions of the shared seeds, in their order."""
        self._resampled: dict[str, Any] = {}
        self._scattered: tuple[dict[str, float], float] | None = None

    def mean(self, row: Row) -> float:
        """Mean of the compared metric over the shared seeds."""
        return float(np.mean(self._values(row.method_id)))

    def lead(self, a: Row, b: Row) -> Uncertainty:
        """The lead of a over b; positive means better."""
        x, y = self._bootstrap(a.method_id), self._bootstrap(b.method_id)
        values = self._values(a.method_id) - self._values(b.method_id)
        known = self._scatter()
        seeds = None if known is None else (known[0][a.method_id] + known[0][b.method_id], known[1])
        return uncertainty(self.sign * values, self.sign * (x - y), self.clusters.count, seeds)

    def mcnemar(self, a: Row, b: Row) -> Iterator[PairMcNemar]:
        """One test per seed: each compares two trained networks."""
        for seed, x, y in zip(self.seeds, self.samples[a.method_id], self.samples[b.method_id], strict=True):
            found = mcnemar(x.probabilities.argmax(1) == x.labels, y.probabilities.argmax(1) == y.labels)
            yield PairMcNemar(
                seed=seed, only_a=found.only_a, only_b=found.only_b, p=round(found.exact_p, 9),
                chi2=round(found.chi2, 9), chi2_p=round(found.chi2_p, 9),
            )  # fmt: skip

    def classes(self, a: Row, b: Row) -> Iterator[ClassShift]:
        """F1 of each class, a minus b, with Holm's correction over classes."""
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
