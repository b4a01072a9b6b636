"""One metric of every row by group (donor, slide, plate), by fold or by class, from test predictions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wbcbench.boards.folds import mean_of_all
from wbcbench.boards.model import Board, PerRow, PerTable, Share
from wbcbench.boards.samples import Sample
from wbcbench.boards.values import Values
from wbcbench.evaluation.metrics import score
from wbcbench.records import verify as checks

Of = Literal["group", "fold", "class"]
PARTS: tuple[Of, ...] = get_args(Of)
MANY = 200
"""Groups above which a page shows no table of them."""


def table(board: Board, samples: Mapping[str, Sequence[Sample]], of: Of, more: Values) -> PerTable | None:
    """The board's metric of every row with samples, for each share of its test cells; None if there are none."""
    first = next(iter(samples.values()))[0]
    parts = _parts(board, first, of)
    if parts is None:
        return None
    shares = [
        Share(name=name, cells=int(rows.sum()), classes=len(np.unique(first.labels[rows])))
        for name, rows in parts.items()
    ]
    own_classes = board.by in more.more and more.more[board.by].per_class
    sign = 1 if board.higher_is_better or (of == "class" and not own_classes) else -1
    rows = []
    for row in board.rows:
        if row.method_id not in samples:
            continue
        own = samples[row.method_id]
        values = [
            mean_of_all([_value(s, cells, board, of, name, more) for s in own]) for name, cells in parts.items()
        ]
        known = [(sign * v, name) for v, name in zip(values, parts, strict=True) if v is not None]
        rows.append(
            PerRow(
                name=row.name, method_id=row.method_id, worst=min(known)[1] if known else "",
                values=tuple(None if v is None else round(v, 9) for v in values),
            )
        )  # fmt: skip
    return PerTable(
        board=board.digest, dataset=board.key.dataset, by=board.by, of=of, classes=board.key.classes,
        shares=tuple(shares), rows=tuple(rows),
    )  # fmt: skip


def _parts(board: Board, sample: Sample, of: Of) -> dict[str, NDArray[np.bool_]] | None:
    """Name -> which of the test cells."""
    if of == "class":
        return {name: sample.labels == c for c, name in enumerate(board.key.classes) if (sample.labels == c).any()}
    if of == "fold":
        folds = sample.folds
        return None if folds is None else {f"fold {f}": np.asarray(folds == f) for f in board.folds}
    if sample.groups is None:
        return None
    names = checks.read_result(sample.found.path).group_names
    return {names[g] if names else str(g): sample.groups == g for g in map(int, np.unique(sample.groups))}


def _value(sample: Sample, rows: NDArray[np.bool_], board: Board, of: Of, name: str, more: Values) -> float | None:
    if of == "class":
        if board.by in more.more and more.more[board.by].per_class:
            place = board.key.classes.index(name)
            return more.of_class(sample.probabilities, sample.labels, board.by, place)
        return float(score(sample.probabilities, sample.labels, board.key.classes).per_class[name]["f1"])
    if board.by in more.more:
        return more.of_cells(sample.probabilities[rows], sample.labels[rows], board.by)
    return share_value(sample.probabilities[rows], sample.labels[rows], board.key.classes, board.by)


def share_value(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...], by: str
) -> float | None:
    """A metric of some cells; macro-F1 is over the classes that they have. None: undefined."""
    found = score(probabilities, labels, classes)
    if by == "macro_f1":
        return statistics.fmean(float(found.per_class[classes[c]]["f1"]) for c in np.unique(labels))
    value = found.summary[by]
    return None if value is None else float(value)


__all__ = ["MANY", "PARTS", "Of", "share_value", "table"]
