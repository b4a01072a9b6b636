"""Paired comparison of two rows of a board, on the seeds that they share, and its text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wbcbench.boards.board_statistics import defined, resampled, spread
from wbcbench.boards.columns import header
from wbcbench.boards.model import Board, Row
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, clusters
from wbcbench.boards.statistics import Contrasts, bootstrap, features, holm, mcnemar, uncertainty
from wbcbench.boards.statistics.hypothesis_tests import ALPHA
from wbcbench.boards.values import Values
from wbcbench.evaluation.metrics import METRICS
from wbcbench.records.schema import Strict

LIKELY = 0.75
"""From which probability on a better run is called likely; Bouthillier et al., MLSys 2021."""


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
    p_holm: float | None
    """Corrected over the classes. None: of one seed."""
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
    p: float | None
    """This and all other p-values are None if nothing is known of other seeds."""
    comparisons: int
    """Number of pairs that could have been compared: all pairs of A, B and the ranked rows."""
    p_holm: float | None
    """Over all of them: that of the board, if both are ranked."""
    beyond_noise: bool
    """p < 0.05."""
    margin: float
    p_level: float | None
    """That the difference is `margin` or more: two one-sided tests."""
    level: bool
    """p_level < 0.05: shown to differ by less than the margin."""
    chance: float | None
    """Probability that a run of A with a new seed beats one of B on as many new test cells."""
    detectable: float | None
    """The smallest difference that this comparison finds in four of five cases."""
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
        metric = header(self.by)
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        found = [f"A = {self.a} (id {self.a_id})", f"B = {self.b} (id {self.b_id})", ""]
        found.append(f"{metric} over {seeds}: A {self.a_mean:.4f}, B {self.b_mean:.4f}.")
        found.append(self._verdict())
        if self.comparisons > 1 and self.p_holm is not None:
            word = "still" if self.p_holm < ALPHA else "no longer" if self.beyond_noise else "not"
            found.append(
                f"As one of the {self.comparisons} pairs on this board (Holm): p = {self.p_holm:.3g}, "
                f"{word} beyond noise."
            )
        found += self._further()
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
        if self.p is None:
            return (
                f"{first} is ahead by {size:.4f} (A - B from {self.low:+.4f} to {self.high:+.4f}, 95 % over test "
                "cells). One seed says nothing of others: no verdict."
            )
        least, most = METRICS[self.by].range if self.by in METRICS else (-math.inf, math.inf)
        if max(-self.low, self.high) >= most - least:
            return f"{first} is ahead by {size:.4f}; too few seeds for a verdict (p = {self.p:.3g})."
        kind = "cells and seeds" if len(self.seeds) > 1 else "cells, and seeds as in other rows"
        if self.beyond_noise:
            return (
                f"{first} is better than {second} by {size:.4f} (95 % interval {low:.4f} to {high:.4f}, "
                f"p = {self.p:.3g}; over {kind}): beyond noise."
            )
        return (
            f"{first} is ahead by {size:.4f}, but A - B may be anything from {self.low:+.4f} to {self.high:+.4f} "
            f"(95 % interval, p = {self.p:.3g}; over {kind}): not beyond noise."
        )

    def _further(self) -> list[str]:
        found = []
        if self.p_level is not None:
            verdict = "Level" if self.level else "Not shown to be level"
            found.append(f"{verdict} within {self.margin:g} (equivalence test, p = {self.p_level:.3g}).")
        if self.chance is not None:
            found.append(
                f"A run of A with a new seed beats one of B on new test cells with a probability of "
                f"{self.chance:.2f} ({LIKELY:g} or more: a difference that matters in practice)."
            )
        if self.detectable is not None:
            found.append(f"Resolution: a difference of {self.detectable:.4f} is found in 4 of 5 cases.")
        return found


class Pairs:
    """Comparisons on some seeds; every row must have all of them."""

    def __init__(
        self,
        board: Board,
        samples: Mapping[str, Sequence[Sample]],
        seeds: Sequence[int],
        options: Options,
        values: Values,
    ) -> None:
        """`samples`: the valid predictions of every row, by method id; see `samples.agreeing`."""
        self.board, self.seeds, self.options, self.values = board, list(seeds), options, values
        self.sign = 1.0 if options.higher else -1.0
        self.clusters = clusters([s for own in samples.values() for s in own])
        by_seed = {m: {s.seed: s for s in own} for m, own in samples.items()}
        self.samples = {m: [own[s] for s in seeds] for m, own in by_seed.items() if set(seeds) <= set(own)}
        """Method id -> predictions of the shared seeds, in their order."""
        stated = {m: {s.seed: self._value(s) for s in own} for m, own in samples.items()}
        self._spread = spread({m: v for m, v in stated.items() if np.isfinite(list(v.values())).all()}, seeds)

    def mean(self, row: Row) -> float:
        """Mean of the compared metric over the shared seeds."""
        return float(np.mean(self._values(row.method_id)))

    def contrasts(self, rows: Sequence[Row]) -> Contrasts:
        """The leads of these rows over each other; positive means better."""
        methods, by = [r.method_id for r in rows], (self.options.by,)
        drawn = (resampled(self.samples[m], self.clusters.of, by, self.values, self.options) for m in methods)
        cells = [x[:, 0].astype(np.float32) for x in drawn]
        return Contrasts.of(
            self.sign * np.stack([self._values(m) for m in methods]),
            self.sign * np.stack(cells),
            self.clusters.effective,
            None if self._spread is None else self._spread.rows(methods),
        )

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
        values, drawn = [], []
        for row in (a, b):
            tables = self._tables(row.method_id)
            values.append(np.stack([t.class_f1(t.columns.sum(0)[None])[0] for t in tables]))
            drawn.append(
                bootstrap(tables, (), self.options.resamples, self.options.bootstrap_seed, per_class=True)
            )
        judged = [
            uncertainty(
                values[0][:, k] - values[1][:, k], drawn[0][:, k] - drawn[1][:, k], self.clusters.effective
            )
            for k in range(len(self.board.key.classes))
        ]
        adjusted = holm([u.p for u in judged])
        for name, u, p in zip(self.board.key.classes, judged, adjusted, strict=True):
            low, high = u.interval(limits=(-1.0, 1.0))
            yield ClassShift(
                name=name, f1=round(u.value, 9), low=round(low, 9), high=round(high, 9), p_holm=defined(p),
                beyond_noise=p < ALPHA,
            )  # fmt: skip

    def _value(self, sample: Sample) -> float:
        value = self.values.test(sample.found, self.options.by)
        return np.nan if value is None else value

    def _values(self, method: str) -> Any:
        return np.array([self._value(s) for s in self.samples[method]], dtype=np.float64)

    def _tables(self, method: str) -> list[Any]:
        return [features(s.probabilities, s.labels, self.clusters.of) for s in self.samples[method]]
