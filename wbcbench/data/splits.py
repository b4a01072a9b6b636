"""Splits and their leaks: a donor or an image on two sides of a split, and images with two labels.

Pure functions of labels, sides, groups and of which cells have the same pixels.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Cells, content_digest
from wbcbench.data.draws import another_seed, draw, draw_groups_as_before, partition
from wbcbench.errors import DataError, LeakError
from wbcbench.spec.trial import SplitSpec

Copies = list[list[int]]
"""Groups of two or more cells with the same images: sorted rows, in order of the first."""
SHOWN = 5


@dataclass(frozen=True)
class Leaks:
    """The leaks of one split; all fields are empty if there are none."""

    across: tuple[tuple[int, ...], ...] = ()
    """Rows of cells with the same image that are on more than one side."""
    conflicts: tuple[tuple[int, ...], ...] = ()
    """Rows of cells with the same image but different labels, on any side."""
    torn: tuple[int, ...] = ()
    """Groups (donor, slide, plate) on two or more sides."""
    groups: int = 0
    """Total number of groups."""

    def __bool__(self) -> bool:
        return bool(self.across or self.conflicts or self.torn)

    def sentences(self, ids: Sequence[str] | None = None, groups: Sequence[str] | None = None) -> list[str]:
        """One sentence for each kind of leak, with up to five examples.

        Args:
            ids: [N] names of cells; None: use row numbers.
            groups: names of groups by number; None: use the numbers.
        """

        def named(rows: Iterable[int]) -> str:
            return " = ".join(ids[row] if ids else f"row {row}" for row in rows)

        out = []
        if self.torn:
            names = ", ".join(groups[g] if groups else str(g) for g in self.torn[:SHOWN])
            out.append(
                f"Expected every group on one side of the split, but {len(self.torn)} of {self.groups} stand on "
                f"two or more ({names}{_more(self.torn)}): the test would be on donors seen in training."
            )
        if self.across:
            shown = ", ".join(named(rows[:2]) for rows in self.across[:SHOWN])
            out.append(
                f"Expected every image on one side of the split, but {sum(map(len, self.across))} cells have "
                f"their image on another side too ({shown}{_more(self.across)})."
            )
        if self.conflicts:
            shown = ", ".join(named(rows[:2]) for rows in self.conflicts[:SHOWN])
            out.append(
                f"Expected one label an image, but {len(self.conflicts)} images carry two or more "
                f"({shown}{_more(self.conflicts)})."
            )
        return out

    def refuse(self, ids: Sequence[str] | None = None, groups: Sequence[str] | None = None) -> None:
        """Raise `LeakError`, with advice, if there is any leak."""
        if not self:
            return
        advice = []
        if self.torn:
            advice.append("Set split.scheme=stratified, or name no group.")
        if self.across or self.conflicts:
            advice.append("`wbcbench data import` leaves copies out; `wbcbench data audit` lists them all.")
        advice.append(
            "Or set split.allow_leaks=true: results are then too optimistic, and the comparison key records it."
        )
        raise LeakError(" ".join(self.sentences(ids, groups) + advice))


def find_leaks(
    labels: NDArray[np.int64], side: NDArray[np.str_], groups: NDArray[np.int64] | None, copies: Copies
) -> Leaks:
    """Find the leaks of a split.

    Args:
        labels: [N].
        side: [N] of train, val, test; '' for cells that are not used.
        groups: [N] or None.
        copies: from `same_rows` or `copies_of`.
    """
    used = side != ""
    copies = copies if used.all() else [rows for found in copies if len(rows := [r for r in found if used[r]]) > 1]
    return Leaks(
        across=tuple(tuple(rows) for rows in copies if len(set(side[rows])) > 1),
        conflicts=tuple(tuple(rows) for rows in copies if len(set(labels[rows])) > 1),
        torn=() if groups is None else _torn(groups[used], side[used]),
        groups=0 if groups is None else len(np.unique(groups)),
    )


def same_rows(digests: Iterable[Hashable | None]) -> Copies:
    """Groups of rows with equal digests; None equals nothing."""
    seen: dict[Hashable, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest is not None:
            seen[digest].append(row)
    return [rows for rows in seen.values() if len(rows) > 1]


def copies_of(cells: Cells) -> Copies:
    """Cells whose pixels are equal in every modality (reads about 300 MB per second)."""
    return same_rows(_digests(cells))


def _digests(cells: Cells) -> Iterable[bytes]:
    for row in range(len(cells)):
        h = hashlib.sha256()
        for array in cells.images.values():
            h.update(np.ascontiguousarray(array[row]).data)
        yield h.digest()


def _torn(groups: NDArray[np.int64], side: NDArray[np.str_]) -> tuple[int, ...]:
    pairs = np.unique(np.stack([groups, np.unique(side, return_inverse=True)[1].reshape(-1)]), axis=1)
    names, sides = np.unique(pairs[0], return_counts=True)
    return tuple(int(g) for g in names[sides > 1])


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""


Indices = NDArray[np.int64]
Folds = Mapping[int, NDArray[np.str_]]
"""See `Cells.folds`."""
FEWEST_GROUPS = 3
"""One for each side."""


@dataclass(frozen=True)
class Split:
    """Sorted cell indices of each side."""

    train: Indices
    val: Indices
    test: Indices
    hash: str
    """Hex digest over labels, assignment and the data's fingerprint."""
    scheme: str
    """The scheme that was used: of `SplitSpec.scheme`, 'stratified' where there is no official split."""
    family: str
    """Equal for all folds of one division, else `hash`: two trials can only be compared if it is equal."""
    leaks: Leaks = field(default_factory=Leaks)
    """Its leaks, which `spec` allowed."""


def make_split(cells: Cells, spec: SplitSpec, fold: int | None = None) -> Split:
    """Split `cells`; deterministic in `spec` and `fold`.

    If an official split has no validation cells, `spec.val` of its training cells become validation cells.

    Raises:
        LeakError: a donor or an image is on two sides or an image has two labels, and `spec` does not allow it.
        DataError: a side would be empty, a class would have no training cell, or there are too few cells or
            groups.
    """
    scheme, side = assign_sides(cells.labels, cells.classes, cells.groups, cells.split, spec, fold, cells.folds)
    leaks = find_leaks(cells.labels, side, cells.groups, copies_of(cells))
    if not spec.allow_leaks:
        with _named(fold):
            leaks.refuse(cells.ids, cells.group_names or None)
    parts = {name: np.flatnonzero(side == name).astype(np.int64) for name in SPLITS}
    own = family = content_digest(cells.labels, side, cells.fingerprint)
    if spec.folded:
        family = content_digest(cells.labels, spec.model_dump_json(), cells.fingerprint)
    return Split(**parts, hash=own, scheme=scheme, family=family, leaks=leaks)


@contextmanager
def _named(fold: int | None) -> Iterator[None]:
    """Errors name the fold that they are of."""
    try:
        yield
    except DataError as error:
        if fold is None:
            raise
        raise type(error)(f"Fold {fold}: {error}") from error


def assign_sides(
    labels: Indices,
    classes: Sequence[str],
    groups: Indices | None,
    official: NDArray[np.str_] | None,
    spec: SplitSpec,
    fold: int | None = None,
    folds: Folds | None = None,
) -> tuple[str, NDArray[np.str_]]:
    """The scheme that is used and the side of each of [N] cells, '' for those that an official fold does not use.

    Reads no image. Raises `DataError`.
    """
    with _named(fold):
        return _assign(labels, classes, groups, official, spec, fold, folds)


def _assign(
    labels: Indices,
    classes: Sequence[str],
    groups: Indices | None,
    official: NDArray[np.str_] | None,
    spec: SplitSpec,
    fold: int | None,
    folds: Folds | None,
) -> tuple[str, NDArray[np.str_]]:
    n = len(labels)
    by = None if spec.unit == "cell" else groups
    if spec.unit == "group" and groups is None:
        raise DataError("Expected groups for split.unit=group, but the data set has none. Leave it out.")
    scheme = "stratified" if spec.scheme == "official" and official is None else spec.scheme
    if scheme == "official_folds":
        side = _validated(labels, classes, by, _official_fold(folds, fold), spec)
    elif spec.folded:
        side = _fold_sides(labels, classes, by, spec, fold)
    elif scheme == "official" and official is not None:
        side = _validated(labels, classes, by, official, spec)
    else:
        side = np.full(n, "train", dtype="<U5")
        side[_draw(labels, classes, by, np.arange(n), spec.test, spec.seed, spec, "test")] = "test"
        rest = np.flatnonzero(side == "train")
        side[_draw(labels, classes, by, rest, spec.val / (1 - spec.test), spec.seed + 1, spec, "val")] = "val"
    empty = [name for name in SPLITS if not (side == name).any()]
    if empty:
        advice = " Set split.scheme=stratified to divide all cells anew." if scheme.startswith("official") else ""
        raise DataError(
            f"Expected cells on every side, but {', '.join(empty)} got none of {n}. Add cells.{advice}"
        )
    counts = np.bincount(labels[side == "train"], minlength=len(classes))
    lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
    if lacking:
        raise DataError(
            f"Expected every class among the training cells, but {', '.join(lacking)} has none. "
            "Add cells (or groups) of it or leave the class out."
        )
    return scheme, side


def _validated(
    labels: Indices, classes: Sequence[str], by: Indices | None, given: NDArray[np.str_], spec: SplitSpec
) -> NDArray[np.str_]:
    """The given sides; without validation cells, `spec.val` of the training cells become some."""
    side = given.astype("<U5")
    if not (side == "val").any():
        train = np.flatnonzero(side == "train")
        side[_draw(labels, classes, by, train, spec.val, spec.seed, spec, "val")] = "val"
    return side


def _official_fold(folds: Folds | None, fold: int | None) -> NDArray[np.str_]:
    if not folds or fold is None or fold not in folds:
        there = f"folds {', '.join(map(str, folds))}" if folds else "no folds of its own"
        raise DataError(f"Expected a fold of the data set for split.scheme=official_folds, but it has {there}.")
    return folds[fold]


def larger_shares(spec: SplitSpec) -> Iterator[SplitSpec]:
    """Splits with larger shares than `spec`, which few cells may allow, in order of the change."""
    shares = (0.15, 0.2, 0.25, 0.3, 0.34, 0.4)
    pairs = {(v, t) for v in (*shares, spec.val) for t in (*shares, spec.test) if v >= spec.val and t >= spec.test}
    for val, test in sorted(pairs - {(spec.val, spec.test)}, key=lambda p: (sum(p), p)):
        if val + test < 0.8:
            yield spec.model_copy(update={"val": val, "test": test})


FoldSizes = Mapping[int, Mapping[str, int]]
"""See `Description.fold_sizes`."""


def resolved(
    spec: SplitSpec, grouped: bool, sizes: Mapping[str, int] | None, folds: FoldSizes | None = None
) -> SplitSpec:
    """The spec with `scheme` and `unit` as a new trial records them.

    Args:
        spec: the user's.
        grouped: whether the data set has groups.
        sizes: cells on each side of its official split, if there is one.
        folds: of its official folds, if it has any; `official` means them where there is no official split.
    """
    if spec.scheme == "official" and sizes is None and folds:
        spec = spec.model_copy(update={"scheme": "official_folds"})
    drawn = spec.scheme != "official" or sizes is None or not sizes.get("val")
    if spec.scheme == "official_folds":
        drawn = not all(one.get("val") for one in (folds or {}).values())
    return spec.model_copy(update={"unit": "group"}) if spec.unit is None and grouped and drawn else spec


def fold_numbers(
    spec: SplitSpec, groups: int | None, folds: FoldSizes | Folds | None = None
) -> tuple[int, ...] | None:
    """The numbers of the folds; None if there is only one division.

    Args:
        spec: as `resolved`.
        groups: how many the data set has, if known.
        folds: its official folds, if it has any.

    Raises:
        DataError: groups are left out one by one, but there are fewer than three or their number is not known; or
            the data set has no folds of its own.
    """
    if spec.scheme == "official_folds":
        if not folds:
            raise DataError(
                "Expected folds of the data set's own for split.scheme=official_folds, but it has none. Name "
                "their column, as in --set dataset.fold=cv_fold, or choose kfold."
            )
        return tuple(folds)
    if spec.scheme != "leave_one_group_out":
        return None if spec.folds is None else tuple(range(spec.folds))
    if groups is None:
        raise DataError(
            "Expected groups (donors, slides, plates) for split.scheme=leave_one_group_out, but the data set has "
            "none or does not count them. Name their column, as in --set dataset.group=donor, or choose kfold."
        )
    check_group_count(groups)
    return tuple(range(groups))


def training_cells(
    spec: SplitSpec,
    cells: int,
    sizes: Mapping[str, int] | None,
    groups: int | None,
    folds: FoldSizes | None = None,
    fold: int | None = None,
) -> int:
    """The number of cells to train on: exact for sides of the data set's own, else about.

    Args:
        spec: as `resolved`.
        cells: how many there are.
        sizes: cells per side of the official split; None: the data set has none.
        groups: how many the data set has, if known.
        folds: its official folds, if it has any.
        fold: of them, the one to train on; None: the first.
    """
    own = sizes if sizes and "train" in sizes and spec.scheme == "official" else None
    if spec.scheme == "official_folds" and folds:
        own = folds.get(-1 if fold is None else fold, next(iter(folds.values())))
    if own is not None:
        return own["train"] if own.get("val") else round(own["train"] * (1 - spec.val))
    every = None if spec.draws_test else fold_numbers(spec, groups, folds)
    return round(cells * (1 - spec.val - (spec.test if every is None else 1 / len(every))))


def check_group_count(count: int) -> None:
    """Refuse to split too few groups. Raises `DataError`."""
    if count < FEWEST_GROUPS:
        raise DataError(
            f"Expected at least {FEWEST_GROUPS} groups, one for each of {', '.join(SPLITS)}, but got {count}. Add "
            "groups, or divide by cell with --set split.unit=cell --set split.allow_leaks=true: results are then "
            "too optimistic for new groups."
        )


def _fold_sides(
    labels: Indices, classes: Sequence[str], by: Indices | None, spec: SplitSpec, fold: int | None
) -> NDArray[np.str_]:
    groups = None if by is None else len(np.unique(by))
    count = len(fold_numbers(spec, groups) or ())
    if fold is None or fold >= count:
        raise DataError(f"Expected a fold of 0 to {max(count, 1) - 1}, but got {fold}.")
    if groups is not None:
        check_group_count(groups)
    everything = np.arange(len(labels))
    if spec.scheme == "repeated":
        tested = _draw(labels, classes, by, everything, spec.test, spec.seed, spec, "test", fold)
    elif spec.scheme == "kfold":
        tested = everything[partition(labels, by, count, spec.seed) == fold]
    else:
        assert by is not None
        tested = everything[by == np.unique(by)[fold]]
    side = np.full(len(labels), "train", dtype="<U5")
    side[tested] = "test"
    rest = np.flatnonzero(side == "train")
    share = spec.val * len(labels) / len(rest)
    if share >= 1:
        raise DataError(f"Expected cells to train on, but split.val={spec.val:g} takes all that are not tested.")
    seed = another_seed(spec.seed, "validation", fold)
    side[_draw(labels, classes, by, rest, share, seed, spec, "val")] = "val"
    return side


def _draw(
    labels: Indices,
    classes: Sequence[str],
    by: Indices | None,
    pool: Indices,
    share: float,
    seed: int,
    spec: SplitSpec,
    side: str,
    nth: int = 0,
) -> Indices:
    """Draw about `share` of `pool` for `side`: whole groups if there are any, else cells, stratified by label."""
    if by is None:
        _check_stratifiable(labels[pool], classes, max(1, round(share * len(pool))), side)
        return draw(labels, None, pool, share, seed, nth)
    if spec.unit is None and not spec.folded:
        return draw_groups_as_before(labels, by, pool, share, seed)
    return draw(labels, by, pool, share, seed, nth, leave=2 if side == "test" else 1)


def _check_stratifiable(labels: Indices, classes: Sequence[str], count: int, side: str) -> None:
    """Raise `DataError` unless `count` cells can be drawn such that every class has its share."""
    sizes = np.bincount(labels, minlength=len(classes))
    alone = [name for name, size in zip(classes, sizes, strict=True) if size == 1]
    if alone:
        raise DataError(
            f"Expected at least 2 cells of every class to set some aside as {side}, but {', '.join(alone)} has 1 "
            f"(of {len(labels)} cells). Add cells, or leave the class out (--leave-out of `wbcbench data import`)."
        )
    kinds = int((sizes > 0).sum())
    if min(count, len(labels) - count) < kinds:
        raise DataError(
            f"Expected at least {kinds} cells, one of each class, as {side} and as many left, but {side} gets "
            f"{count} of {len(labels)}. Add cells, leave classes out, or raise split.{side}."
        )
