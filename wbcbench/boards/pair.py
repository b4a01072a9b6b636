"""What `leaderboard compare` finds, and how it says so."""

from __future__ import annotations

from wbcbench.boards.columns import HEADERS
from wbcbench.records.schema import Strict


class PairMcNemar(Strict):
    """Two trained networks of one seed."""

    seed: int
    only_a: int
    """Cells that only A got right."""
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
    """Over the classes."""
    beyond_noise: bool


class Ratio(Strict):
    """What A costs as a multiple of B."""

    what: str
    a: float
    b: float
    ratio: float


class Explanation(Strict):
    """One pair of methods on one board."""

    board: str
    by: str
    a: str
    b: str
    a_id: str
    b_id: str
    seeds: tuple[int, ...]
    """Shared ones, which all numbers are of."""
    a_mean: float
    b_mean: float
    lead: float
    """Of A; positive is better."""
    low: float
    high: float
    p: float
    comparisons: int
    """So many pairs of rows might have been asked about: all of A, B and the ranked rows."""
    p_holm: float
    beyond_noise: bool
    mcnemar: tuple[PairMcNemar, ...]
    classes: tuple[ClassShift, ...]
    cost: tuple[Ratio, ...]
    differences: tuple[str, ...]
    """Of the methods' specifications: `field: A's != B's`."""
    splits: str | None = None
    """Over several splits of the same data, where there are some."""
    refused: tuple[str, ...] = ()
    """Records of this board that were left out, and why."""

    def lines(self) -> list[str]:
        """In plain words, one paragraph a line. Not escaped."""
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
