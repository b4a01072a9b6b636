"""Answers of a teacher from outside: an .npz file of logits or probabilities by cell.

A random forest, another laboratory's network, a consensus of experts: whatever can answer for the training cells
can teach. The file is checked completely before anything is trained, and never unpickled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.data.cache import file_digest
from wbcbench.data.npz_file import Header, NpzFile
from wbcbench.errors import DataError, did_you_mean
from wbcbench.spec.trial import OUTSIDE_NAME

FLOOR = 1e-6
"""Probabilities are at least this before their logarithm is taken: a forest's zero is not an infinite logit."""
_ARRAYS = {
    "ids": "[N] ids of cells",
    "classes": "[K] names of classes",
    "logits": "[N, K] or [N, V, K]",
    "probabilities": "[N, K] or [N, V, K]",
    "embeddings": "[N, D] or [N, V, D]",
    "train_ids": "ids of the cells that the teacher was trained on",
    "split": "[N] train, val or test: what the cells were to the teacher",
    "name": "for tables",
}


@dataclass(frozen=True, eq=False)
class AnswerFile:
    """The checked content of a file. N cells, V views, K classes in the data set's order."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    name: str
    ids: tuple[str, ...]
    logits: NDArray[np.float32]
    """[N, V, K]"""
    embeddings: NDArray[np.float32] | None
    """[N, V, D]"""
    trained_on: frozenset[str] | None
    """Ids of the cells that the teacher was trained or selected on; None: the file does not say."""

    @property
    def views(self) -> int:
        return int(self.logits.shape[1])

    @property
    def width(self) -> int:
        """Of the embeddings; 0: there are none."""
        return 0 if self.embeddings is None else int(self.embeddings.shape[2])

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, K]: the mean over views."""
        z = self.logits[rows]
        p = np.exp(z - z.max(2, keepdims=True))
        mean: NDArray[np.float32] = (p / p.sum(2, keepdims=True)).mean(1)
        return mean

    def sentence(self) -> str:
        """What the file holds, for a plan's notes."""
        views = f", {self.views} views each" if self.views > 1 else ""
        embeddings = f", embeddings of {self.width}" if self.width else ""
        stated = (
            "it does not state which cells the teacher was trained on"
            if self.trained_on is None
            else f"the teacher was trained on {len(self.trained_on)} cells"
        )
        return f"Teacher {self.name}: answers for {len(self.ids)} cells{views}{embeddings}; {stated}."


def read_answers(path: Path, classes: tuple[str, ...]) -> AnswerFile:
    """Read and check a file.

    Args:
        path: an .npz file with `ids`, `classes`, and `logits` or `probabilities`; see the guide "Methods".
        classes: of the data set; the file may have them in another order.

    Raises:
        DataError: states what was expected and what was found.
    """
    if not path.is_file():
        raise DataError(
            f"Expected an .npz file of a teacher's answers, but {path} is not a file. Check --teacher."
        )
    return _read(path.resolve(), file_digest(path), classes)


@lru_cache(maxsize=4)
def _read(path: Path, digest: str, classes: tuple[str, ...]) -> AnswerFile:
    file = NpzFile(path)
    if file.digest != digest:
        raise DataError(f"{path} changed while it was read. Run the command again.")
    for name in sorted(file.members):
        if name not in _ARRAYS:
            known = "; ".join(f"{n}: {what}" for n, what in _ARRAYS.items())
            raise DataError(
                f"{path}: no array of answers is called '{name}'.{did_you_mean(name, _ARRAYS)} {known}."
            )
    if missing := [n for n in ("ids", "classes") if n not in file.members]:
        raise DataError(f"{path}: expected the array '{missing[0]}' ({_ARRAYS[missing[0]]}), but there is none.")
    kinds = [n for n in ("logits", "probabilities") if n in file.members]
    if len(kinds) != 1:
        raise DataError(f"{path}: expected logits or probabilities, but got {' and '.join(kinds) or 'neither'}.")
    ids = _names(file, "ids")
    order = _order(path, _names(file, "classes"), classes)
    values = _numbers(file, kinds[0], len(ids))
    if values.shape[2] != len(order):
        raise DataError(f"{path}: expected {kinds[0]} of {len(order)} classes, but got {values.shape[2]}.")
    values = values[:, :, order]
    if kinds[0] == "probabilities":
        _check_sums(path, values, ids)
        values = np.log(np.maximum(values, FLOOR)).astype(np.float32)
    embeddings = _numbers(file, "embeddings", len(ids)) if "embeddings" in file.members else None
    if embeddings is not None and embeddings.shape[1] not in (1, values.shape[1]):
        raise DataError(
            f"{path}: expected embeddings of {values.shape[1]} views, as {kinds[0]} have, but got "
            f"{embeddings.shape[1]}."
        )
    return AnswerFile(path, digest, _title(file, digest), ids, values, embeddings, _trained_on(file, ids))


def _names(file: NpzFile, name: str) -> tuple[str, ...]:
    """An array [n] of distinct texts or whole numbers, as text."""
    array = _array(file, name)
    if array.ndim != 1 or array.dtype.kind not in "Uiu" or not len(array):
        raise DataError(
            f"{file.path}: expected {name} as {_ARRAYS[name]}, text or whole numbers, but got "
            f"{array.dtype}{list(array.shape)}."
        )
    found = tuple(map(str, array.tolist()))
    twice, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file.path}: expected each of {name} once, but '{twice}' is there twice.")
    return found


def _array(file: NpzFile, name: str) -> NDArray[Any]:
    header: Header = file.headers[name]
    if header.dtype.hasobject:
        raise DataError(
            f"{file.path}: expected {name} as plain numbers or text, but it holds Python objects, which are never "
            "unpickled. Save it with .astype(str) or as numbers."
        )
    return file.read(name, f"{name} of a teacher's answers")


def _numbers(file: NpzFile, name: str, cells: int) -> NDArray[np.float32]:
    """[N, V, x] float32, finite, from [N, x] or [N, V, x]."""
    array = _array(file, name)
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or len(array) != cells or 0 in array.shape:
        raise DataError(
            f"{file.path}: expected {name} as numbers {_ARRAYS[name]} with N = {cells}, as ids have, but got "
            f"{array.dtype}{list(array.shape)}."
        )
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).reshape(cells, -1).all(1))[0])
        raise DataError(f"{file.path}: expected finite {name}, but row {row} has NaN or infinity.")
    return values if values.ndim == 3 else values[:, None]


def _order(path: Path, theirs: tuple[str, ...], ours: tuple[str, ...]) -> list[int]:
    """The position of each of our classes among theirs."""
    if set(theirs) != set(ours):
        lacking, more = ([c for c in a if c not in b] for a, b in ((ours, theirs), (theirs, ours)))
        hint = did_you_mean(more[0], ours) if more else ""
        raise DataError(
            f"{path}: expected the classes of the data set ({', '.join(ours)}) in any order, but "
            + " and ".join(
                [f"{what} {', '.join(names)}" for what, names in (("lacks", lacking), ("has", more)) if names]
            ).replace("lacks", "it lacks", 1)
            + f".{hint}"
        )
    return [theirs.index(c) for c in ours]


def _check_sums(path: Path, values: NDArray[np.float32], ids: tuple[str, ...]) -> None:
    sums = values.sum(2)
    wrong = ((values < 0).any(2) | (np.abs(sums - 1) > 1e-3)).any(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{path}: expected probabilities that are not negative and sum to 1, but those of '{ids[row]}' are "
            f"{np.array2string(values[row, 0], precision=4)}. Unnormalised values are called logits."
        )


def _title(file: NpzFile, digest: str) -> str:
    if "name" not in file.members:
        return f"file-{digest[:6]}"
    array = _array(file, "name")
    text = str(array.item()) if array.ndim == 0 and array.dtype.kind == "U" else ""
    if not re.fullmatch(OUTSIDE_NAME, text):
        raise DataError(
            f"{file.path}: expected `name` as up to 40 letters, digits, blanks and ._+()-, but got {text!r}."
        )
    return text


def _trained_on(file: NpzFile, ids: tuple[str, ...]) -> frozenset[str] | None:
    stated: set[str] = set()
    if "train_ids" in file.members:
        stated |= set(_names(file, "train_ids"))
    if "split" in file.members:
        sides = _array(file, "split")
        if sides.shape != (len(ids),) or not set(sides.tolist()) <= {"train", "val", "test"}:
            raise DataError(f"{file.path}: expected split as train, val or test for each of the {len(ids)} ids.")
        stated |= {i for i, side in zip(ids, sides.tolist(), strict=True) if side != "test"}
    return frozenset(stated) if {"train_ids", "split"} & file.members else None


def names_of(answers: AnswerFile, cells: Sequence[str] | None, count: int) -> Sequence[str]:
    """The data set's cells as the file calls them: by their ids or, if they have none, by their numbers from 0."""
    unnamed = cells is None or all(name == f"row {i}" for i, name in enumerate(cells))
    return [str(i) for i in range(count)] if unnamed and answers.ids[0].isdecimal() else cells or ()


def rows_of(
    answers: AnswerFile, cells: Sequence[str] | None, count: int, train: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of the data set's cells, its row in the file, or -1.

    Args:
        answers: of the teacher.
        cells: ids of the data set's cells, if it has any.
        count: number of cells.
        train: positions of the training cells, each of which the file must answer for.

    Raises:
        DataError: it lacks some, or ids are ambiguous.
    """
    names = names_of(answers, cells, count)
    if len(set(names)) < len(names):
        raise DataError("The data set has several cells of one id, so that answers cannot be matched by id.")
    place = {name: row for row, name in enumerate(answers.ids)}
    rows = np.array([place.get(name, -1) for name in names] or [-1] * count, dtype=np.int64)
    lacking = train[rows[train] < 0]
    if len(lacking):
        examples = ", ".join(f"'{names[i] if names else i}'" for i in lacking[:3])
        raise DataError(
            f"Teacher '{answers.name}': expected answers for all {len(train)} training cells, but {len(lacking)} "
            f"have none, such as {examples}. Its own ids are such as '{answers.ids[0]}'."
        )
    return rows


__all__ = ["FLOOR", "AnswerFile", "names_of", "read_answers", "rows_of"]
