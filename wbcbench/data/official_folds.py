"""Folds that come with the cells: a column, a column of sides per fold, or lists of names per fold and side."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Account
from wbcbench.data.labels import is_missing, plain, read_split, side_of
from wbcbench.errors import DataError

Folds = dict[int, NDArray[np.str_]]
"""See `Cells.folds`."""
NAMES = frozenset({"fold", "folds", "cvfold", "kfold", "testfold"})
"""Usual names of the column, as `plain` gives them."""
LISTS = (".csv", ".txt")
_NUMBER = re.compile(r"\D*?(\d{1,6})(\.0+)?")
_MOST = 1000
_LARGEST = 256 << 20
"""Bytes of a list."""
_SHOWN = 5
NOWHERE = "of no fold"
"""Reason in an account of cells that no fold uses."""


def fold_columns(there: Iterable[str], name: str) -> tuple[str, ...]:
    """The column (or array) of this name; else those of its name and a number, as fold0, fold1; or none."""
    there = list(there)
    if name in there:
        return (name,)
    numbered = re.compile(rf"{re.escape(name)}[ _-]?(\d{{1,6}})")
    found = [(int(m[1]), column) for column in there if (m := numbered.fullmatch(column))]
    return tuple(column for _, column in sorted(found)) if name else ()


def are_sides(values: Iterable[str]) -> bool:
    """Whether all of a column's values are words for train, val or test, so that it is a split and not folds."""
    given = {value.strip() for value in values if not is_missing(value)}
    return bool(given) and all(side_of(value) for value in given)


@dataclass(frozen=True)
class ReadFolds:
    """The folds of N cells, and notes on how they were read."""

    sides: Folds
    notes: list[str]

    @property
    def used(self) -> NDArray[np.bool_]:
        """[N], whether some fold uses the cell."""
        used: NDArray[np.bool_] = np.any([side != "" for side in self.sides.values()], axis=0)
        return used


def read_folds(columns: Mapping[str, Sequence[str]], where: str) -> ReadFolds:
    """The folds of [N] cells, from one column of folds or from a column of sides per fold.

    One column names the fold that tests a cell; the other folds train on it. Cells of -1 or `train` are trained on
    by every fold, as in scikit-learn's `PredefinedSplit`; cells without a value are in none.

    Raises:
        DataError: fewer than two folds, sides in the column of folds, or no sides in a column per fold.
    """
    if len(columns) == 1:
        ((name, values),) = columns.items()
        if are_sides(values):
            raise DataError(
                f"Expected numbers or names of folds in {name!r} of {where}, but it holds train, val or test. Set "
                f"dataset.split={name} and dataset.fold='' if it is the split, or only dataset.fold='' if not."
            )
        return _tested(values, f"{name!r} of {where}")
    notes: list[str] = []
    sides: Folds = {}
    for name, values in columns.items():
        read = read_split(values, f"{name!r} of {where}")
        side = np.full(len(values), "", dtype="<U5")
        side[read.keep] = read.side
        strange = sorted(
            {w for w, kept in zip(read.words, read.keep, strict=True) if not kept and not is_missing(w)}
        )
        if strange:
            raise DataError(
                f"Expected train, val, test or nothing in {name!r} of {where}, but got "
                f"{', '.join(strange[:_SHOWN])}."
            )
        match = re.search(r"\d+$", name)
        assert match is not None
        sides[int(match[0])] = side
    _check(sides, where)
    return ReadFolds(sides, notes)


def _tested(values: Sequence[str], where: str) -> ReadFolds:
    words = [str(value).strip() for value in values]
    always = {word for word in words if word in ("-1", "-1.0") or side_of(word) == "train"}
    names = {word for word in words if not is_missing(word)} - always
    if len(names) > _MOST:
        raise DataError(f"Expected at most {_MOST} folds in {where}, but got {len(names)}. Is it another column?")
    notes = []
    matches = {word: _NUMBER.fullmatch(word) for word in names}
    if all(matches.values()):
        number = {word: int(match[1]) for word, match in matches.items() if match}
    else:
        number = {word: i for i, word in enumerate(sorted(names))}
        notes.append("Folds are numbered: " + ", ".join(f"{i} is {word!r}" for word, i in number.items()) + ".")
    codes = np.array([number.get(word, -1) for word in words])
    used = np.array([not is_missing(word) for word in words])
    sides = {}
    for fold in sorted(set(number.values())):
        side = np.where(used, "train", "").astype("<U5")
        side[codes == fold] = "test"
        sides[fold] = side
    _check(sides, where)
    return ReadFolds(sides, notes)


def _check(sides: Folds, where: str) -> None:
    if len(sides) < 2:
        raise DataError(f"Expected two or more folds in {where}, but got {len(sides)}. Name no folds, or a split.")
    for fold, side in sides.items():
        if lacking := [name for name in ("train", "test") if not (side == name).any()]:
            raise DataError(
                f"Expected cells to train on and to test in fold {fold} of {where}, but {lacking[0]} has none."
            )


def fold_sizes(folds: Mapping[int, NDArray[np.str_]] | None) -> dict[int, dict[str, int]] | None:
    """Number of cells of each fold per side, or None without folds."""
    if folds is None:
        return None
    return {fold: {s: int((side == s).sum()) for s in SPLITS} for fold, side in folds.items()}


def fold_notes(folds: Mapping[int, NDArray[np.str_]] | None, labels: Sequence[str]) -> list[str]:
    """What a reader must know of official folds: cells that are never or repeatedly tested, or not used by a fold,
    and classes that a fold does not test.

    Args:
        folds: of N cells.
        labels: [N] names of classes.
    """
    if folds is None:
        return []
    tested = np.sum([side == "test" for side in folds.values()], axis=0)
    used = np.sum([side != "" for side in folds.values()], axis=0)
    notes = []
    if never := int(((tested == 0) & (used > 0)).sum()):
        notes.append(f"{never} cells are tested by no fold.")
    if often := int((tested > 1).sum()):
        notes.append(f"{often} cells are tested by two or more folds.")
    if nowhere := int((used == 0).sum()):
        notes.append(f"{nowhere} cells are in no fold; split.scheme=official_folds does not use them.")
    some = [f"{int(n)} of fold {k}" for k, side in folds.items() if (n := ((side == "") & (used > 0)).sum())]
    if some:
        notes.append(f"Some cells are in other folds only: {', '.join(some[:_SHOWN])}.")
    names = np.array(labels)
    for fold, side in folds.items():
        lacking = sorted(set(labels) - set(names[side == "test"].tolist()))
        if lacking:
            notes.append(f"Fold {fold} tests no {', '.join(lacking)}; metrics are of all folds' cells together.")
    return notes


def column_values(folds: Mapping[int, NDArray[np.str_]]) -> dict[str, list[str]]:
    """Folds as columns of a manifest: `fold0`, `fold1` and so on, see `read_folds`."""
    return {f"fold{fold}": [str(s) for s in side] for fold, side in folds.items()}


@dataclass(frozen=True)
class Lists:
    """Files that list the cells of one side of one fold, as `fold0_train.csv` or `fold0/test.txt`."""

    folder: Path
    files: dict[tuple[int, str], Path]
    """(fold, side) -> file."""
    others: list[str]
    """Names of files that are not such lists."""

    @classmethod
    def below(cls, folder: Path) -> Lists:
        """Find them by name: one number and one word for a side. Raises `DataError` for none, or two of one."""
        if not folder.is_dir():
            raise DataError(f"Expected a folder of lists such as fold0_train.csv, but {folder} is none.")
        files: dict[tuple[int, str], Path] = {}
        others = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in LISTS):
            name = path.relative_to(folder).with_suffix("").as_posix()
            words = re.findall(r"[a-z]+|\d+", name.lower())
            sides = [side for word in words if (side := side_of(word))]
            numbers = [int(word) for word in words if word.isdigit()]
            if len(sides) != 1 or len(numbers) != 1:
                others.append(path.relative_to(folder).as_posix())
                continue
            key = (numbers[0], str(sides[0]))
            if key in files:
                raise DataError(
                    f"Expected one list for {key[1]} of fold {key[0]}, but got {files[key]} and {path}."
                )
            files[key] = path
        if not files:
            raise DataError(
                f"Expected lists such as fold0_train.csv, fold0_test.csv in {folder}, but no .csv or .txt has a "
                f"number and one of {', '.join(SPLITS)} in its name ({', '.join(others[:_SHOWN]) or 'none'})."
            )
        return cls(folder, files, others)

    def read(self, keys: Sequence[Iterable[str]]) -> tuple[ReadFolds, Account]:
        """The folds of [N] cells, and the account of the names in the lists.

        A fold that lists no training cells trains on all that it does not list.

        Args:
            keys: [N] the names of each cell, best first: id, path, file name ...

        Raises:
            DataError: a fold without a test list, a cell on two sides of a fold, or no name that is a cell's.
        """
        index = _index(keys)
        sides: Folds = {}
        seen, unknown = 0, list[str]()
        for fold in sorted({fold for fold, _ in self.files}):
            side = np.full(len(keys), "", dtype="<U5")
            for name in SPLITS:
                if (fold, name) not in self.files:
                    continue
                path = self.files[fold, name]
                for word in _names(path, index):
                    seen += 1
                    row = index.get(word)
                    if row is None:
                        unknown.append(f"{word} of {path.relative_to(self.folder).as_posix()}")
                    elif side[row] not in ("", name):
                        raise DataError(
                            f"Expected every cell on one side of fold {fold}, but {word!r} is listed for "
                            f"{side[row]} and {name} ({path})."
                        )
                    else:
                        side[row] = name
            if (fold, "test") not in self.files:
                raise DataError(
                    f"Expected a list of test cells for fold {fold} in {self.folder}, but there are only "
                    f"{', '.join(p.name for (f, _), p in self.files.items() if f == fold)}."
                )
            if (fold, "train") not in self.files:
                side[side == ""] = "train"
            sides[fold] = side
        if seen == len(unknown):
            raise DataError(
                f"Expected names of cells in {self.folder}, but none of {seen} is one, such as "
                f"{', '.join(unknown[:3]) or 'nothing'}. Cells are known by id, path and file name."
            )
        _check(sides, str(self.folder))
        notes = [f"Not lists of a fold's side: {', '.join(self.others[:_SHOWN])}."] if self.others else []
        gone = [("that are of no cell", name) for name in unknown]
        return ReadFolds(sides, notes), Account.of("names in lists of folds", seen, seen - len(unknown), gone)


def _index(keys: Sequence[Iterable[str]]) -> dict[str, int]:
    """Name -> row. Full names first; a file name or stem that two cells share names neither."""
    index: dict[str, int] = {}
    short: dict[str, set[int]] = defaultdict(set)
    for row, names in enumerate(keys):
        for name in filter(None, names):
            index.setdefault(name, row)
            path = PurePosixPath(name)
            for part in (str(path.with_suffix("")) if path.suffix else "", path.name, path.stem):
                short[part].add(row)
    return {**{name: rows.pop() for name, rows in short.items() if name and len(rows) == 1}, **index}


def _names(path: Path, index: Mapping[str, int]) -> list[str]:
    """The names in a list: of a table the column with the most names of cells, without its header."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"Expected a list of at most {_LARGEST >> 20} MB, but {path} has more.")
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected a list of cells in {path}, but it cannot be read ({error}).") from error
    found = Counter(i for row in rows for i, word in enumerate(row) if _name(word) in index)
    column = min(found, key=lambda i: (-found[i], i), default=0)
    names = [_name(row[column]) for row in rows if column < len(row) and row[column].strip()]
    header = bool(names) and names[0] not in index and not re.search(r"[\d./]", names[0])
    return names[1:] if header else names


def _name(word: str) -> str:
    return str(PurePosixPath(word.strip().replace("\\", "/"))) if word.strip() else ""


def is_fold_column(name: str, values: Iterable[str]) -> bool:
    """Whether a column that nobody named holds folds, by its name and values."""
    return plain(name) in NAMES and not are_sides(values)


__all__ = [
    "NOWHERE",
    "Folds",
    "Lists",
    "ReadFolds",
    "are_sides",
    "column_values",
    "fold_columns",
    "fold_notes",
    "fold_sizes",
    "is_fold_column",
    "read_folds",
]
