"""Predictions that are too alike: the same trial twice, or another's answers under a new name."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.publishing.verdict import Level, Problem
from wbcbench.records.store import Record
from wbcbench.spec import Trial

NEAR = 1e-3
"""Largest difference of any probability below which two trials' predictions are a copy with a little noise.
Two trainings that differ in anything random are about a hundred times further apart."""

SolvedOnce = Callable[[Trial], bool]
"""Whether a trial's method is solved in one go: then its seed may have no part in it."""


def predictions_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """64 hex digits over every array's name, type, shape and values; the file's layout has no part in it."""
    h = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        h.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        h.update(array.tobytes())
    return h.hexdigest()


def answers(record: Record) -> NDArray[np.float32]:
    """Test probabilities [N, K] in order of cell id, so that a shuffled copy is the same."""
    arrays = record.predictions
    order = np.argsort(arrays["test_cells"], kind="stable")
    return np.asarray(arrays["test_probabilities"][order])


def copies(
    records: Sequence[Record], others: Sequence[Record], solved_once: SolvedOnce, whose: str
) -> Iterator[Problem]:
    """Trials among `records` whose answers another trial has too: one of `others`, or where `whose` is empty, of
    `records`.

    Only trials of one split are compared. The same trial elsewhere is no copy.
    """
    here = {r.trial.id for r in records}
    others = [r for r in others if r.trial.id not in here]
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[Record, NDArray[np.float32], bool]]] = defaultdict(list)
    for ours, side in ((True, records), (False, others)):
        for record in side:
            found = answers(record)
            groups[record.result.key.split, found.shape].append((record, found, ours))
    for group in groups.values():
        for i, (a, p, ours) in enumerate(group):
            for b, q, also_ours in group[i + 1 :]:
                if a.trial.id != b.trial.id and ours and also_ours == (whose == ""):
                    # `records` come first in a group, so `a` is one of them.
                    yield from _alike(a, p, b, q, solved_once, whose)


def _alike(
    a: Record, p: NDArray[np.float32], b: Record, q: NDArray[np.float32], solved_once: SolvedOnce, whose: str
) -> Iterator[Problem]:
    furthest = float(np.abs(p - q).max())
    if furthest > NEAR or (solved_once(a.trial) and solved_once(b.trial)):
        return  # what is solved in one go draws nothing at random, and so may repeat itself
    pair = f"{named(a)} and {named(b)}{whose}"
    level: Level = "refuse"
    because = ""
    if float(np.ptp(p, axis=0).max()) <= NEAR:
        level, because = "look", ", which say the same of every cell"
    elif furthest > 0 or a.result.key != b.result.key:
        # Two protocols may select the same epoch of the same training.
        level = "look"
    how = "the same test predictions" if furthest == 0 else f"test predictions at most {furthest:.1g} apart"
    yield level, f"{pair} have {how}{because}"


def named(record: Record) -> str:
    """A record for people: `independent + logits, seed 1 (0123abcd)`."""
    r = record.result
    return f"{r.title}, seed {r.seed} ({r.trial_id})"


__all__ = ["SolvedOnce", "answers", "copies", "named", "predictions_digest"]
