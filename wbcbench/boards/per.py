"""One metric of every row by group (donor, slide, plate), by fold or by class, from the stored predictions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wbcbench.boards.build import report
from wbcbench.boards.folds import mean_of_all, pooled
from wbcbench.boards.gather import by_method, gather
from wbcbench.boards.model import Board
from wbcbench.boards.options import Options
from wbcbench.boards.samples import Sample, agreeing
from wbcbench.errors import UsageError
from wbcbench.evaluation.metrics import METRICS, score
from wbcbench.records import verify as checks
from wbcbench.records.schema import Strict
from wbcbench.records.store import Store

Of = Literal["group", "fold", "class"]
PARTS: tuple[Of, ...] = get_args(Of)


class Share(Strict):
    """Some test cells of a board."""

    name: str
    cells: int
    classes: int
    """How many classes they are of; macro-F1 is over these."""


class PerRow(Strict):
    """One row of the board."""

    name: str
    method_id: str
    values: tuple[float | None, ...]
    """Mean over seeds for each of `PerTable.shares`; None: undefined."""
    worst: str
    """The share with the worst value; empty if all are undefined."""


class PerTable(Strict):
    """The rows of one board, in its order."""

    board: str
    dataset: str
    by: str
    of: Of
    classes: tuple[str, ...]
    shares: tuple[Share, ...]
    rows: tuple[PerRow, ...]


def per(stores: Sequence[Store | Path | str], of: Of, options: Options) -> list[PerTable]:
    """The board's metric of every row, separately for each group, fold or class of its test cells.

    Within a group or fold, macro-F1 is over the classes that it has; for a class it is that class's F1, whatever
    the board's metric. Rows that lack a fold are left out.

    Raises:
        UsageError: no board has groups, or folds.
    """
    opened = [s if isinstance(s, Store) else Store(s) for s in stores]
    fast = replace(options, statistics=False, details=False)
    boards = report(opened, fast).boards
    found = gather(opened, fast)
    tables = []
    for board in boards:
        classes = board.key.classes
        units = pooled([found.trials[s.trial_id] for r in board.rows for s in r.sources], len(classes))
        methods = {m: own for m, own in by_method(units.found).items() if m not in units.lacking}
        samples, _ = agreeing(methods, len(classes))
        if samples and (table := _table(board, samples, of)) is not None:
            tables.append(table)
    if not tables:
        what = {"group": "groups of test cells (donors, slides, plates)", "fold": "folds", "class": "records"}[of]
        raise UsageError(f"Expected a board with {what} for --per {of}, but there is none.")
    return tables


def _table(board: Board, samples: Mapping[str, Sequence[Sample]], of: Of) -> PerTable | None:
    first = next(iter(samples.values()))[0]
    parts = _parts(board, first, of)
    if parts is None:
        return None
    shares = [
        Share(name=name, cells=int(rows.sum()), classes=len(np.unique(first.labels[rows])))
        for name, rows in parts.items()
    ]
    sign = 1 if METRICS[board.by].higher_is_better or of == "class" else -1
    rows = []
    for row in board.rows:
        if row.method_id not in samples:
            continue
        own = samples[row.method_id]
        values = [mean_of_all([_value(s, cells, board, of, name) for s in own]) for name, cells in parts.items()]
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


def _value(sample: Sample, rows: NDArray[np.bool_], board: Board, of: Of, name: str) -> float | None:
    classes = board.key.classes
    if of == "class":
        return float(score(sample.probabilities, sample.labels, classes).per_class[name]["f1"])
    there = np.unique(sample.labels[rows])
    if board.by == "macro_f1":
        f1 = score(sample.probabilities[rows], sample.labels[rows], classes).per_class
        return statistics.fmean(float(f1[classes[c]]["f1"]) for c in there)
    value = score(sample.probabilities[rows], sample.labels[rows], classes).summary[board.by]
    return None if value is None else float(value)


__all__ = ["PARTS", "Of", "PerRow", "PerTable", "Share", "per"]
