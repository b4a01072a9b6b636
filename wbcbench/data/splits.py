"""Divide cells into train, validation and test: official where there is one, else group-disjoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Cells, content_digest
from wbcbench.data.leaks import Leaks, copies_of, find_leaks
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
    leaks: Leaks = field(default_factory=Leaks)
    """What is wrong with it, and was allowed."""


def make_split(cells: Cells, spec: SplitSpec) -> Split:
    """Divide `cells`; deterministic in `spec`.

    An official split without validation cells gives `spec.val` of its training cells to validation.

    Raises:
        LeakError: a donor or an image is on two sides or an image has two labels, and `spec` does not allow it.
        DataError: a side would be empty, a class would have no training cell, or there are too few cells or
            groups.
    """
    scheme, side = assign_sides(cells.labels, cells.classes, cells.groups, cells.split, spec)
    leaks = find_leaks(cells.labels, side, cells.groups, copies_of(cells))
    if not spec.allow_leaks:
        leaks.refuse(cells.ids)
    parts = {name: np.flatnonzero(side == name).astype(np.int64) for name in SPLITS}
    digest = content_digest(cells.labels, side, cells.fingerprint)
    return Split(**parts, hash=digest, scheme=scheme, leaks=leaks)


def assign_sides(
    labels: Indices,
    classes: Sequence[str],
    groups: Indices | None,
    official: NDArray[np.str_] | None,
    spec: SplitSpec,
) -> tuple[str, NDArray[np.str_]]:
    """The scheme really used and the side of each of [N] cells; looks at no image. Raises `DataError`."""
    n = len(labels)
    if spec.scheme == "official" and official is not None:
        scheme, side = "official", official.astype("<U5")
        if not (side == "val").any():
            train = np.flatnonzero(side == "train")
            side[_draw(labels, groups, train, spec.val, spec.seed)] = "val"
    else:
        scheme, side = "stratified", np.full(n, "train", dtype="<U5")
        test = _draw(labels, groups, np.arange(n), spec.test, spec.seed)
        side[test] = "test"
        rest = np.flatnonzero(side == "train")
        side[_draw(labels, groups, rest, spec.val / (1 - spec.test), spec.seed + 1)] = "val"
    empty = [name for name in SPLITS if not (side == name).any()]
    if empty:
        raise DataError(f"Expected cells on every side, but {', '.join(empty)} got none of {n}. Add cells.")
    counts = np.bincount(labels[side == "train"], minlength=len(classes))
    lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
    if lacking:
        raise DataError(
            f"Expected every class among the training cells, but {', '.join(lacking)} has none. "
            "Add cells (or groups) of it or leave the class out."
        )
    return scheme, side


def check_group_count(count: int, spec: SplitSpec) -> None:
    """Refuse to divide so few groups, without their cells: the test side takes one of them at least.

    Raises:
        DataError: `assign_sides` would raise it of these groups, whatever their labels.
    """
    _enough_groups(count, spec.test)
    _enough_groups(count - 1, spec.val / (1 - spec.test))


def _enough_groups(count: int, share: float) -> int:
    """The number of folds of which one is the share."""
    folds = max(2, round(1 / share))
    if count < folds:
        raise DataError(
            f"Expected at least {folds} groups to set {share:.0%} aside, but got {count}. "
            "Add groups or raise the share."
        )
    return folds


def _draw(all_labels: Indices, all_groups: Indices | None, pool: Indices, share: float, seed: int) -> Indices:
    """Draw about `share` of `pool`, stratified by label; whole groups if there are groups.

    One fold of round(1 / share): scikit-learn balances classes over folds while groups stay whole.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    labels = all_labels[pool]
    if all_groups is None:
        try:
            # A count, because scikit-learn rounds a share up: 0.1 / 0.7 of 700 would be 101.
            count = max(1, round(share * len(pool)))
            drawn = train_test_split(np.arange(len(pool)), test_size=count, stratify=labels, random_state=seed)[1]
        except ValueError as error:
            raise DataError(f"Expected enough cells of every class to divide, but: {error} Add cells.") from error
        return np.asarray(pool[drawn])
    groups = all_groups[pool]
    folds = _enough_groups(len(np.unique(groups)), share)
    try:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        chosen = next(splitter.split(labels, labels, groups))[1]
    except ValueError as error:
        raise DataError(f"Expected enough cells of every class to divide, but: {error} Add cells.") from error
    return np.asarray(pool[chosen])
