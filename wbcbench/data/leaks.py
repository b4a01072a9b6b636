"""What must not stand on two sides of a split: a donor, an image; and images that carry two labels.

Pure functions of labels, sides, groups and of which cells show the same pixels.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Cells
from wbcbench.errors import LeakError

Copies = list[list[int]]
"""Cells with the same images, two or more each: sorted rows, in order of the first."""
SHOWN = 5


@dataclass(frozen=True)
class Leaks:
    """What is wrong with one division; all empty where nothing is."""

    across: tuple[tuple[int, ...], ...] = ()
    """Rows of cells with one and the same image that stand on more than one side."""
    conflicts: tuple[tuple[int, ...], ...] = ()
    """Rows of cells with one and the same image that have different labels, on whatever side."""
    torn: tuple[int, ...] = ()
    """Groups (donor, slide, plate) on two sides or more."""
    groups: int = 0
    """How many groups there are."""

    def __bool__(self) -> bool:
        return bool(self.across or self.conflicts or self.torn)

    def sentences(self, ids: Sequence[str] | None = None, groups: Sequence[str] | None = None) -> list[str]:
        """One sentence for each kind of leak, with up to five examples by name.

        Args:
            ids: [N] names of cells; None: row numbers.
            groups: names of groups by their number; None: the numbers.
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
        """Raise `LeakError` if there is any leak, with what to do."""
        if not self:
            return
        mend = []
        if self.torn:
            mend.append("Set split.scheme=stratified, or name no group.")
        if self.across or self.conflicts:
            mend.append("`wbcbench data import` leaves copies out; `wbcbench data audit` names them all.")
        mend.append("Or set split.allow_leaks=true: results are then too good, and the comparison key says so.")
        raise LeakError(" ".join(self.sentences(ids, groups) + mend))


def find_leaks(
    labels: NDArray[np.int64], side: NDArray[np.str_], groups: NDArray[np.int64] | None, copies: Copies
) -> Leaks:
    """Judge a division.

    Args:
        labels: [N].
        side: [N] of train, val, test.
        groups: [N] or None.
        copies: of `same_rows` or `copies_of`.
    """
    return Leaks(
        across=tuple(tuple(rows) for rows in copies if len(set(side[rows])) > 1),
        conflicts=tuple(tuple(rows) for rows in copies if len(set(labels[rows])) > 1),
        torn=() if groups is None else _torn(groups, side),
        groups=0 if groups is None else len(np.unique(groups)),
    )


def same_rows(digests: Iterable[Hashable | None]) -> Copies:
    """Rows with equal digests; None is equal to nothing."""
    seen: dict[Hashable, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest is not None:
            seen[digest].append(row)
    return [rows for rows in seen.values() if len(rows) > 1]


def copies_of(cells: Cells) -> Copies:
    """Cells whose pixels agree in every modality (about 300 MB a second)."""
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
