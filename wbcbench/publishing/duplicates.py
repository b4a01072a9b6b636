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
    """Trials among `records` whose answers another trial, of `records` or of `others`, has too.

    Only trials of one split are compared. The same trial elsewhere is no copy.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[Record, NDArray[np.float32], bool]]] = defaultdict(list)
    for ours, side in ((True, records), (False, others)):
        for record in side:
            found = answers(record)
            groups[record.result.key.split, found.shape].append((record, found, ours))
    for group in groups.values():
        for i, (a, p, ours) in enumerate(group):
            for b, q, also_ours in group[i + 1 :]:
                if a.trial.id == b.trial.id or not ours or (bool(others) and also_ours):
                    continue
                yield from _alike(a, p, b, q, solved_once, whose)


def _alike(
    a: Record, p: NDArray[np.float32], b: Record, q: NDArray[np.float32], solved_once: SolvedOnce, whose: str
) -> Iterator[Problem]:
    furthest = float(np.abs(p - q).max())
    if furthest > NEAR:
        return
    pair = f"{named(a)} and {named(b)}{whose}"
    level: Level = "refuse"
    because = ""
    if bool((p == p[0]).all()):
        level, because = "look", ", which say the same of every cell"
    elif a.trial.method.fusion == b.trial.method.fusion and solved_once(a.trial):
        level, because = "look", ", whose fusion is solved in one go and may draw nothing at random"
    elif furthest > 0 or a.result.key != b.result.key:
        # Two protocols may select the same epoch of the same training.
        level = "look"
    how = "the same test predictions" if furthest == 0 else f"test predictions no further apart than {furthest:.1g}"
    yield level, f"{pair} have {how}{because}"


def named(record: Record) -> str:
    """A record for people: `independent + logits, seed 1 (0123abcd)`."""
    r = record.result
    kd = "" if r.kd == "none" else f" + {r.kd}"
    return f"{r.label}{kd}, seed {r.seed} ({r.trial_id})"


__all__ = ["SolvedOnce", "answers", "copies", "named", "predictions_digest"]
