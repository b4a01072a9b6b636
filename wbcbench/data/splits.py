"""Divide cells into train, validation and test: official where there is one, else group-disjoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Cells, content_digest
from wbcbench.errors import DataError
from wbcbench.spec.trial import SplitSpec

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Sorted cell indices of each side."""

    train: Indices
    val: Indices
    test: Indices
    hash: str
    """Hex digest over labels, assignment and the data's fingerprint."""
    scheme: str
    """The scheme really used: 'official' or 'stratified'."""
    duplicates: int = 0
    """Images (same content in all modalities) that stand on more than one side."""
    examples: tuple[tuple[str, str], ...] = ()
    """Up to five pairs of ids of such duplicates."""


def make_split(cells: Cells, spec: SplitSpec) -> Split:
    """Divide `cells`; deterministic in `spec`. Raises `DataError` if a side or class would be empty."""
    n = len(cells)
    if spec.scheme == "official" and cells.split is not None:
        scheme, side = "official", cells.split.astype("<U5")
        if not (side == "val").any():
            train = np.flatnonzero(side == "train")
            side[_draw(cells, train, spec.val, spec.seed)] = "val"
    else:
        scheme, side = "stratified", np.full(n, "train", dtype="<U5")
        test = _draw(cells, np.arange(n), spec.test, spec.seed)
        side[test] = "test"
        rest = np.flatnonzero(side == "train")
        side[_draw(cells, rest, spec.val / (1 - spec.test), spec.seed + 1)] = "val"
    parts = {name: np.flatnonzero(side == name).astype(np.int64) for name in SPLITS}
    empty = [name for name, index in parts.items() if not len(index)]
    if empty:
        raise DataError(f"Expected cells on every side, but {', '.join(empty)} got none of {n}. Add cells.")
    counts = np.bincount(cells.labels[parts["train"]], minlength=len(cells.classes))
    lacking = [name for name, count in zip(cells.classes, counts, strict=True) if not count]
    if lacking:
        raise DataError(
            f"Expected every class among the training cells, but {', '.join(lacking)} has none. "
            "Add cells (or groups) of it or leave the class out."
        )
    duplicates, examples = _duplicates(cells, side)
    digest = content_digest(cells.labels, side, cells.fingerprint)
    return Split(**parts, hash=digest, scheme=scheme, duplicates=duplicates, examples=examples)


def _draw(cells: Cells, pool: Indices, share: float, seed: int) -> Indices:
    """Draw about `share` of `pool`, stratified by label; whole groups if there are groups.

    One fold of round(1 / share): scikit-learn balances classes over folds while groups stay whole.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    labels = cells.labels[pool]
    if cells.groups is None:
        try:
            return pool[train_test_split(np.arange(len(pool)), test_size=share, stratify=labels,
                                         random_state=seed)[1]]  # fmt: skip
        except ValueError as error:
            raise DataError(f"Expected enough cells of every class to divide, but: {error} Add cells.") from error
    folds = max(2, round(1 / share))
    groups = cells.groups[pool]
    if len(np.unique(groups)) < folds:
        raise DataError(
            f"Expected at least {folds} groups to set {share:.0%} aside, but got {len(np.unique(groups))}. "
            "Add groups or raise the share."
        )
    try:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        chosen = next(splitter.split(labels, labels, groups))[1]
    except ValueError as error:
        raise DataError(f"Expected enough cells of every class to divide, but: {error} Add cells.") from error
    return pool[chosen]


def _duplicates(cells: Cells, side: NDArray[np.str_]) -> tuple[int, tuple[tuple[str, str], ...]]:
    first: dict[bytes, int] = {}
    count, examples = 0, []
    for i in range(len(cells)):
        h = hashlib.sha256()
        for array in cells.images.values():
            h.update(np.ascontiguousarray(array[i]).data)
        other = first.setdefault(h.digest(), i)
        if side[other] != side[i]:
            count += 1
            if len(examples) < 5:
                a, b = (cells.ids[k] if cells.ids else str(k) for k in (other, i))
                examples.append((a, b))
    return count, tuple(examples)
