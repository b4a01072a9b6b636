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
    """Cells whose images (all modalities) also occur on another side."""
    examples: tuple[tuple[str, str], ...] = ()
    """Up to five pairs of ids of such duplicates."""


def make_split(cells: Cells, spec: SplitSpec) -> Split:
    """Divide `cells`; deterministic in `spec`.

    An official split without validation cells gives `spec.val` of its training cells to validation.

    Raises:
        DataError: a side would be empty, a class would have no training cell, there are too few cells or
            groups, or the official split tears groups apart.
    """
    n = len(cells)
    if spec.scheme == "official" and cells.split is not None:
        scheme, side = "official", cells.split.astype("<U5")
        _refuse_torn_groups(cells, side)
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
            # A count, because scikit-learn rounds a share up: 0.1 / 0.7 of 700 would be 101.
            count = max(1, round(share * len(pool)))
            drawn = train_test_split(np.arange(len(pool)), test_size=count, stratify=labels, random_state=seed)[1]
        except ValueError as error:
            raise DataError(f"Expected enough cells of every class to divide, but: {error} Add cells.") from error
        return np.asarray(pool[drawn])
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
    return np.asarray(pool[chosen])


def _duplicates(cells: Cells, side: NDArray[np.str_]) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Count cells whose images (all modalities) also occur on another side; up to five pairs of ids."""
    same: dict[bytes, list[int]] = {}
    for i in range(len(cells)):
        h = hashlib.sha256()
        for array in cells.images.values():
            h.update(np.ascontiguousarray(array[i]).data)
        same.setdefault(h.digest(), []).append(i)
    count = 0
    examples: list[tuple[str, str]] = []
    for members in same.values():
        first, *others = members
        across = [i for i in others if side[i] != side[first]]
        if across:
            # Every one of them: whatever its side, some other side has its image too.
            count += len(members)
            a, b = (cells.ids[k] if cells.ids else str(k) for k in (first, across[0]))
            examples.append((a, b))
    return count, tuple(examples[:5])


def _refuse_torn_groups(cells: Cells, side: NDArray[np.str_]) -> None:
    """Raise `DataError` if the official split puts a donor, slide or plate on two sides."""
    if cells.groups is None:
        return
    pairs = np.unique(np.stack([cells.groups, np.unique(side, return_inverse=True)[1].reshape(-1)]), axis=1)
    groups, sides = np.unique(pairs[0], return_counts=True)
    torn = int((sides > 1).sum())
    if torn:
        raise DataError(
            f"Expected every group on one side of the official split, but {torn} of {len(groups)} stand on two or "
            "more: the test would be on donors seen in training. Set split.scheme=stratified, or name no group."
        )
