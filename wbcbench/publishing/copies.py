"""Copied predictions: equal ones, and ones that are nearer to another trial's than honest seeds of it are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbcbench.publishing.verdict import Level, Problem
from wbcbench.records.store import Record
from wbcbench.spec import Trial

NEAR = 1e-3
"""If no probability differs by more than this, two trials' predictions count as a copy with a little noise.
Two trainings with different random numbers differ by about a hundred times more."""
_CLIP = 0.02
"""Probabilities nearer to 0 or 1 count as this far from them: noise of 1e-2 decides log-odds beyond."""
_SHARE = {"odds": 0.75, "decisions": 0.5}
"""A pair is suspicious if a distance is below this share of that of the nearest pair of honest seeds."""

SolvedOnce = Callable[[Trial], bool]
"""Whether a trial's method is solved directly, without iterative training: then its seed may have no effect."""


class Distance(NamedTuple):
    """How far the predictions of two trials are apart."""

    odds: float
    """sqrt(1 - r^2) of their log-odds: the share of the spread of one that the other does not explain. Scaling all
    log-odds, as a temperature does, is no distance."""
    decisions: float
    """Share of cells with another most probable class."""


FARTHEST = Distance(odds=0.15, decisions=0.02)
"""Larger distances are never suspicious, however far apart honest seeds are: noise of 1e-2 changes less."""
UNKNOWN = Distance(odds=0.107, decisions=0.0)
"""Instead of honest seeds where none are known: about what the nearest ones of the published boards have. Copies
with noise of 1e-2 have at most 0.09 there."""


class Seen(NamedTuple):
    """A record's predictions, prepared for comparison."""

    record: Record
    probabilities: NDArray[np.float32]
    """[N, K], sorted by cell id, so that a shuffled copy is equal."""
    odds: NDArray[np.float32]
    """[N * K] log-odds, centred, of norm 1; zeros if they are the same for every cell."""
    decisions: NDArray[np.int64]
    ours: bool
    """Whether it is of the pack."""


def seen(record: Record, ours: bool) -> Seen:
    """Prepare a record's test predictions."""
    arrays = record.predictions
    order = np.argsort(arrays["test_cells"], kind="stable")
    p = np.asarray(arrays["test_probabilities"][order])
    clipped = np.clip(p, _CLIP, 1 - _CLIP)
    odds = np.log(clipped / (1 - clipped))
    odds -= odds.mean(axis=0)
    norm = float(np.linalg.norm(odds))
    odds = odds / norm if norm > NEAR * len(odds) else np.zeros_like(odds)
    return Seen(record, p, odds.ravel(), p.argmax(axis=1), ours)


def distance(a: Seen, b: Seen) -> Distance:
    """How far two predictions for the same cells are apart."""
    r = float(a.odds @ b.odds)
    return Distance(float(np.sqrt(max(0.0, 1 - r * r))), float(np.mean(a.decisions != b.decisions)))


Honest = Mapping[str, Distance]
"""Method id -> distance of the nearest pair of its seeds; "" -> of all methods."""


def honest_seeds(group: Sequence[Seen], solved_once: SolvedOnce) -> Honest:
    """How near different seeds of one method are, in the records that are not of the pack."""
    methods: dict[str, list[Seen]] = defaultdict(list)
    for one in group:
        if not one.ours and not solved_once(one.record.trial):
            methods[one.record.result.method_id].append(one)
    found = {
        method: [distance(a, b) for a, b in combinations(own, 2) if a.record.trial.seed != b.record.trial.seed]
        for method, own in methods.items()
    }
    found[""] = [d for pairs in found.values() for d in pairs]
    return {
        method: Distance(min(d.odds for d in pairs), min(d.decisions for d in pairs))
        for method, pairs in found.items()
        if pairs
    }


def copies(
    records: Sequence[Record], others: Sequence[Record], solved_once: SolvedOnce, whose: str
) -> Iterator[Problem]:
    """Trials in `records` with the same predictions as another trial, or nearly the same: one in `others` or, if
    `whose` is empty, in `records`.

    Only trials with the same split and fold are compared. The same trial elsewhere is not a copy.
    """
    here = {r.trial.id for r in records}
    groups: dict[tuple[str, int | None, tuple[int, ...]], list[Seen]] = defaultdict(list)
    for ours, side in ((True, records), (False, others)):
        for record in side:
            if ours or record.trial.id not in here:
                one = seen(record, ours)
                groups[record.result.key.split, record.trial.fold, one.probabilities.shape].append(one)
    for group in groups.values():
        honest = honest_seeds(group, solved_once)
        for a, b in combinations(group, 2):
            # `records` come first in a group, so `a` is one of them.
            if a.record.trial.id != b.record.trial.id and a.ours and b.ours == (whose == ""):
                yield from _alike(a, b, honest, solved_once, whose)


def _alike(a: Seen, b: Seen, honest: Honest, solved_once: SolvedOnce, whose: str) -> Iterator[Problem]:
    if solved_once(a.record.trial) and solved_once(b.record.trial):
        return  # methods that are solved directly use no random numbers, so equal results are expected
    pair = f"{named(a.record)} and {named(b.record)}{whose}"
    furthest = float(np.abs(a.probabilities - b.probabilities).max())
    if furthest > NEAR:
        yield from _near(a, b, honest, pair)
        return
    level: Level = "refuse"
    because = ""
    if float(np.ptp(a.probabilities, axis=0).max()) <= NEAR:
        level, because = "look", ", which are the same for every cell"
    elif furthest > 0 or a.record.result.key != b.record.result.key:
        # Two protocols may select the same epoch of the same training.
        level = "look"
    how = "the same test predictions" if furthest == 0 else f"test predictions at most {furthest:.1g} apart"
    yield level, f"{pair} have {how}{because}"


def suspicious(a: Seen, b: Seen, honest: Honest) -> tuple[Distance, Distance] | None:
    """The distance of two trials, and that of honest seeds, if the first is much smaller."""
    # Of the copied method itself; else of any.
    usual = honest.get(b.record.result.method_id, honest.get("", UNKNOWN))
    found = distance(a, b)
    odds = min(FARTHEST.odds, _SHARE["odds"] * usual.odds)
    decisions = min(FARTHEST.decisions, _SHARE["decisions"] * usual.decisions)
    near = found.odds < odds or (found.odds < FARTHEST.odds and found.decisions < decisions)
    return (found, usual) if near else None


def _near(a: Seen, b: Seen, honest: Honest, pair: str) -> Iterator[Problem]:
    """Never a refusal: one training with two rules of fusing its heads, for example, gives such pairs honestly."""
    if (near := suspicious(a, b, honest)) is None:
        return
    found, usual = near
    known = (
        f"the nearest seeds of one method in {usual.decisions:.1%} and {usual.odds:.3f}"
        if usual is not UNKNOWN
        else "other trainings, as far as known, in 0.11 or more"
    )
    yield (
        "look",
        f"{pair} differ in {found.decisions:.1%} of decisions and {found.odds:.3f} of log-odds, {known}: one "
        "training with small changes, or a copy with noise. --rerun tells them apart",
    )


def named(record: Record) -> str:
    """A record's display name: `independent + logits, seed 1 (0123abcd)`."""
    r = record.result
    return f"{r.title}, seed {r.seed} ({r.trial_id})"


__all__ = ["Distance", "Seen", "SolvedOnce", "copies", "distance", "honest_seeds", "named", "seen", "suspicious"]
