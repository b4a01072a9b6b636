"""Boards that differ in nothing but the split are one data set, resampled: what holds of a pair over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.boards.model import Board, Row
from wbcbench.boards.statistics import corrected_resampled_t
from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import METRICS
from wbcbench.records import verify as checks
from wbcbench.spec import digest


def families(boards: Sequence[Board]) -> list[list[Board]]:
    """Boards whose keys are equal but for the split, two or more each; in the order of the boards."""
    found: dict[str, list[Board]] = {}
    for board in boards:
        found.setdefault(digest(board.key.model_copy(update={"split": ""})), []).append(board)
    return [own for own in found.values() if len(own) > 1]


def over_splits(boards: Sequence[Board], board: Board, a: Row, b: Row, by: str) -> str | None:
    """Nadeau and Bengio's test of two rows of `board`, in words; None where there is one split only.

    On another split a row is the same method if its specification is the same, teachers included but for the split
    that they learnt on. Each split gives one difference, of means over the same seeds; splits on which a row lacks
    one of them are left out.
    """
    siblings = next((own for own in families(boards) if board.digest in {o.digest for o in own}), [])
    names = _makeup(a), _makeup(b)
    pairs = []
    for other in siblings:
        rows = {name: [r for r in other.rows if _makeup(r) == name] for name in names}
        if all(len(own) == 1 for own in rows.values()):
            pairs.append((rows[names[0]][0], rows[names[1]][0]))
    shared = [tuple(sorted(_values(x, by).keys() & _values(y, by).keys())) for x, y in pairs]
    often = Counter(s for s in shared if s)
    if len(pairs) < 2 or not often:
        return None
    seeds = max(often, key=lambda s: (often[s], len(s), s))
    used = [pair for pair, there in zip(pairs, shared, strict=True) if set(seeds) <= set(there)]
    cells = {_test_cells(x) for x, _ in used}
    if len(used) < 2 or len(cells) < 2:
        return None if len(used) < 2 else (
            f"There are {len(used)} splits of the same data, but with the same test cells: nothing was resampled "
            "that a test over splits could be about."
        )  # fmt: skip
    sign = 1.0 if METRICS[by].higher_is_better else -1.0
    leads = [sign * float(np.mean([_values(x, by)[s] - _values(y, by)[s] for s in seeds])) for x, y in used]
    u = corrected_resampled_t(leads, _test_to_train(used[0][0]))
    low, high = u.interval()
    left = len(pairs) - len(used)
    said = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return (
        f"Over {len(used)} splits of the same data, {said}: lead {u.value:+.4f} ({low:+.4f} to {high:+.4f}), "
        f"corrected resampled t-test (Nadeau and Bengio) p = {u.p:.3g}."
        + (f" Left out: {left} split{'s' * (left > 1)} without these seeds." if left else "")
    )


def with_hints(boards: Sequence[Board]) -> list[Board]:
    """The boards, each with a note of those that are the same data on another split, and what joins them."""
    found = {b.digest: b for b in boards}
    for own in families(boards):
        for b in own if any(len(x.rows) > 1 for x in own) else ():
            others = ", ".join(x.digest for x in own if x is not b)
            note = (
                f"One of {len(own)} boards that differ in nothing but the split (others: {others}): "
                "`wbcbench leaderboard compare A B` tests two rows over all of them (Nadeau and Bengio)."
            )
            found[b.digest] = b.model_copy(update={"notes": (*b.notes, note)})
    return list(found.values())


def _makeup(row: Row) -> str:
    """Equal for rows of one specification, whatever the split; the method's id where none can be read."""
    try:
        method = checks.read_trial(_path(row)).method.model_dump(mode="json")
    except RecordError:
        return row.method_id
    return digest([row.modalities, _without_split(method)])


def _without_split(method: dict[str, Any]) -> dict[str, Any]:
    teachers = [
        {**t, "protocol": {k: v for k, v in t["protocol"].items() if k != "split"},
         "method": _without_split(t["method"])}
        for t in method["teachers"]
    ]  # fmt: skip
    return {**method, "teachers": teachers}


def _values(row: Row, by: str) -> dict[int, float]:
    return {s.seed: v for s in row.sources if (v := s.metrics[by]) is not None}


def _test_cells(row: Row) -> bytes:
    return bytes(np.sort(checks.read_predictions(_path(row))["test_cells"]).tobytes())


def _test_to_train(row: Row) -> float:
    """Test cells per training cell, as the protocol divides them."""
    split = checks.read_trial(_path(row)).protocol.split
    return split.test / (1 - split.test - split.val)


def _path(row: Row) -> Path:
    path = row.sources[0].path
    assert path is not None
    return path


__all__ = ["families", "over_splits", "with_hints"]
