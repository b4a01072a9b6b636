"""A CSV manifest: one row per cell, with its label and one image path per modality."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Account
from wbcbench.data.formats import refuse_foreign
from wbcbench.data.labels import (
    HOPELESS,
    NAMES,
    Problems,
    accounts_of_names,
    check_names,
    distinct_names,
    is_missing,
    join_spellings,
    plain,
    read_split,
    spelling_notes,
)
from wbcbench.data.official_folds import (
    NOWHERE,
    Folds,
    ReadFolds,
    fold_columns,
    fold_notes,
    is_fold_column,
    read_folds,
)
from wbcbench.errors import DataError, did_you_mean

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".j2k",
)  # fmt: skip
"""Suffixes of files that are read as images."""
MAX_TABLE = 512 << 20
"""Bytes of a manifest."""


@dataclass(frozen=True)
class Columns:
    """The role of each column; None if the manifest has no such column."""

    label: str
    modalities: Mapping[str, str]
    """Modality of images -> column."""
    group: str | None = None
    split: str | None = None
    id: str | None = None
    fold: tuple[str, ...] = ()
    """The column of folds, or a column of sides per fold, see `read_folds`."""
    vectors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality of numbers -> columns."""


@dataclass(frozen=True)
class Manifest:
    """The N rows that are kept. Paths are relative to the root, and empty where an image is missing."""

    lines: list[int]
    """[N] line numbers as an editor counts them."""
    labels: list[str]
    paths: dict[str, list[str]]
    """Modality of images -> [N]."""
    groups: list[str] | None
    split: NDArray[np.str_] | None
    ids: list[str]
    notes: list[str]
    account: Account
    """Of the files or rows that these cells come from."""
    found: Mapping[str, frozenset[str]]
    """`classes`, `splits` and `groups` -> every name at the source, of cells that are kept or not."""
    folds: Folds | None = None
    """See `Cells.folds`."""
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Modality of numbers -> [N, F], NaN where one is missing."""
    features: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality of numbers -> their names, [F]."""

    def accounts(self) -> tuple[Account, ...]:
        """The account, and those of classes, splits and groups."""
        used = {
            "classes": set(self.labels),
            "splits": None if self.split is None else {str(side) for side in self.split},
            "groups": None if self.groups is None else set(self.groups),
        }
        return (self.account, *accounts_of_names(self.found, used))


class ManifestFile:
    """The header and rows of a CSV file (UTF-8; comma, semicolon or tab).

    Raises:
        DataError: no such file, not UTF-8, no header, no row, or a duplicate column name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_foreign(path, "a manifest (.csv)")
        try:
            if (size := path.stat().st_size) > MAX_TABLE:
                raise DataError(
                    f"Expected a manifest of at most {MAX_TABLE >> 20} MB, but {path} has {size >> 20}. "
                    "Is it a table of paths and labels? Split it if so."
                )
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise DataError(f"Expected a manifest at {path}, but: {error.strerror}. Set dataset.path.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"Expected UTF-8 text in {path}, but {error}. Save it as CSV UTF-8.") from error
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        self.rows: list[tuple[int, list[str]]] = []
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            self.header = [name.strip() for name in next(reader, [])]
            start, fit = reader.line_num + 1, False
            for row in reader:
                if row:
                    self.rows.append((start, row))
                    fit = fit or len(row) == len(self.header)
                    if not fit and len(self.rows) >= HOPELESS:
                        raise DataError(
                            f"Expected rows of {len(self.header)} fields, as the header of {path} has, but none "
                            f"of the first {HOPELESS:,} has (the first has {len(self.rows[0][1])}). Save it again."
                        )
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"Expected CSV in {path}, but line {len(self.rows) + 2}: {error}. Save it again as CSV."
            ) from error
        if not self.header or not self.rows:
            raise DataError(f"Expected a header and at least one row in {path}, but it is empty. Add cells.")
        twice = sorted({name for name in self.header if self.header.count(name) > 1})
        if twice:
            raise DataError(
                f"Expected distinct column names in {path}, but got {', '.join(map(repr, twice))} twice. "
                "Rename one."
            )

    def column(self, name: str, purpose: str) -> int:
        """The position of a column. Raises `DataError` that suggests similar names."""
        if name not in self.header:
            raise DataError(
                f"Expected column {name!r} for the {purpose} in {self.path}, but there is none."
                f"{did_you_mean(name, self.header)} Columns: {', '.join(self.header)}. "
                f"Set dataset.{purpose.split()[0]} to one of them."
            )
        return self.header.index(name)

    def values(self, name: str) -> list[str]:
        """The values of a column, of rows that are long enough."""
        at = self.header.index(name)
        return [row[at] for _, row in self.rows if at < len(row)]

    def image_columns(self, taken: Sequence[str | None]) -> dict[str, str]:
        """Modality -> column, for every column not in `taken`. Raises `DataError` if one has no image paths."""
        columns = [name for name in self.header if name not in taken]
        for name in columns:
            at = self.header.index(name)
            values = [row[at] for _, row in self.rows if at < len(row) and not is_missing(row[at])]
            if values and not any(value.strip().lower().endswith(SUFFIXES) for value in values):
                raise DataError(
                    f"Expected paths of images in column {name!r} of {self.path}, but it holds {values[0]!r}. "
                    "Name the image columns with dataset.modalities.<name>=<column>, and columns of numbers that "
                    "are a modality together with dataset.modalities.<name>=[<column>,<column>]."
                )
        if not columns:
            raise DataError(
                f"Expected a column of image paths in {self.path}, but it has only "
                f"{', '.join(self.header)}. Add one."
            )
        return dict(zip(distinct_names(columns, f"the columns of {self.path}"), columns, strict=True))

    def select(
        self,
        columns: Columns,
        leave_out: Mapping[str, Sequence[str]],
        problems: Problems,
        sides: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Read the rows that are used. Invalid rows are added to `problems` and left out of the result.

        Args:
            sides: word of the split column -> train, val or test, in addition to the usual words.

        Raises:
            DataError: an unknown column, or no row left.
        """
        check_names([*columns.modalities, *columns.vectors])
        label = self.column(columns.label, "label")
        group = None if columns.group is None else self.column(columns.group, "group")
        split = None if columns.split is None else self.column(columns.split, "split")
        name = None if columns.id is None else self.column(columns.id, "id")
        fold = [self.column(c, "fold") for c in columns.fold]
        images = {m: self.column(c, f"modalities.{m} images") for m, c in columns.modalities.items()}
        numbers = {
            m: [self.column(c, f"modalities.{m} numbers") for c in names] for m, names in columns.vectors.items()
        }
        refused = {self.column(c, "leave_out column"): {v.strip() for v in vs} for c, vs in leave_out.items()}
        inputs = [*images.values(), *(at for each in numbers.values() for at in each)]
        places = (label, group, name, inputs, "image or number" if numbers else "image")
        if split is None and not refused and not fold:  # a large table without a usable row ends here
            self._usable(self._complete(self.rows[:HOPELESS], Problems(), []), *places, Problems(), [])
        gone: list[tuple[str, str]] = []
        rows = self._complete(self.rows, problems, gone)
        notes: list[str] = []
        for what, at in (("label", label), ("group", group)):
            if at is not None:
                joined, more = join_spellings([row[at] for _, row in rows], what)
                notes += more
                for (_, row), value in zip(rows, joined, strict=True):
                    row[at] = value
        found = {
            what: frozenset(row[at] for _, row in rows if not is_missing(row[at]))
            for what, at in (("classes", label), ("groups", group))
            if at is not None
        }
        kept = []
        for number, row in rows:
            why = next(
                (f"left out by {self.header[at]}={row[at]}" for at, vs in refused.items() if row[at] in vs), ""
            )
            if why:
                gone.append((why, f"line {number}"))
            else:
                kept.append((number, row))
        if refused:
            notes.append(f"{len(rows) - len(kept)} cells were left out by {', '.join(leave_out)}.")
        rows = kept
        sides_: NDArray[np.str_] | None = None
        if split is not None and rows:
            read = read_split([row[split] for _, row in rows], str(self.path), sides)
            notes += read.notes
            gone += [(read.why(int(i)), f"line {rows[i][0]}") for i in np.flatnonzero(~read.keep)]
            found["splits"] = read.found
            rows = [row for row, kept_row in zip(rows, read.keep, strict=True) if kept_row]
            for (_, row), side in zip(rows, read.side, strict=True):
                row[split] = str(side)
        if fold and split is None and rows:  # with a split, it decides which cells are left out
            used = self._folds(columns.fold, fold, rows).used
            gone += [(NOWHERE, f"line {rows[i][0]}") for i in np.flatnonzero(~used)]
            rows = [row for row, kept_row in zip(rows, used, strict=True) if kept_row]
        rows = self._usable(rows, *places, problems, gone)
        rows = self._without_text(rows, [at for each in numbers.values() for at in each], problems, gone)
        vectors = {}
        for m, each in numbers.items():
            fields = [[as_number(row[at]) for at in each] for _, row in rows]
            vectors[m] = np.array(fields, np.float32).reshape(-1, len(each))
        folds = self._folds(columns.fold, fold, rows) if fold and rows else None
        if split is not None:
            sides_ = np.array([row[split] for _, row in rows], dtype="<U5")
        if not rows and not problems:
            raise DataError(f"Expected cells in {self.path}, but every row was left out. Keep some.")
        paths = {m: [as_path(row[at]) for _, row in rows] for m, at in images.items()}
        fallback = [next((p[i] for p in paths.values() if p[i]), "") for i in range(len(rows))]
        labels = [row[label] for _, row in rows]
        groups = None if group is None else [row[group] for _, row in rows]
        notes += spelling_notes(labels, groups, str(self.path))
        notes += [] if folds is None else [*folds.notes, *fold_notes(folds.sides, labels)]
        return Manifest(
            lines=[number for number, _ in rows],
            labels=labels,
            paths=paths,
            groups=groups,
            split=sides_,
            ids=[path or f"line {n}" for path, (n, _) in zip(fallback, rows, strict=True)]
            if name is None
            else [row[name] for _, row in rows],
            notes=notes,
            account=Account.of("rows", len(self.rows), len(rows), gone),
            found=found,
            folds=None if folds is None else folds.sides,
            vectors=vectors,
            features={m: tuple(names) for m, names in columns.vectors.items()},
        )

    def _without_text(
        self,
        rows: list[tuple[int, list[str]]],
        places: Sequence[int],
        problems: Problems,
        gone: list[tuple[str, str]],
    ) -> list[tuple[int, list[str]]]:
        """The rows that have a number, or nothing, in each of these columns."""
        kept = []
        for line, row in rows:
            wrong = [at for at in places if as_number(row[at]) is None]
            for at in wrong:
                problems.add(line, f"has {row[at]!r} in column {self.header[at]!r}, which is not a number")
            if wrong:
                gone.append(("with text in a column of numbers", f"line {line}"))
            else:
                kept.append((line, row))
        return kept

    def _folds(self, names: Sequence[str], places: Sequence[int], rows: list[tuple[int, list[str]]]) -> ReadFolds:
        columns = {name: [row[at] for _, row in rows] for name, at in zip(names, places, strict=True)}
        return read_folds(columns, str(self.path))

    def _complete(
        self, rows: list[tuple[int, list[str]]], problems: Problems, gone: list[tuple[str, str]]
    ) -> list[tuple[int, list[str]]]:
        complete = []
        for number, row in rows:
            if len(row) == len(self.header):
                complete.append((number, [value.strip() for value in row]))
            else:
                problems.add(number, f"has {len(row)} fields, but the header has {len(self.header)}")
                gone.append(("with too many or too few fields", f"line {number}"))
        return complete

    def _usable(
        self,
        rows: list[tuple[int, list[str]]],
        label: int,
        group: int | None,
        name: int | None,
        inputs: list[int],
        kinds: str,
        problems: Problems,
        gone: list[tuple[str, str]],
    ) -> list[tuple[int, list[str]]]:
        """The rows with a label, a group and at least one of the `inputs`, which are `kinds`."""
        usable, seen = [], dict[str, int]()
        for number, row in rows:
            why = ""
            if name is not None and (first := seen.setdefault(row[name], number)) != number:
                problems.add(number, f"repeats the id {row[name]!r} of line {first}")
                why = "with the id of another row"
            if all(is_missing(row[at]) for at in inputs):
                problems.add(number, f"has no {kinds} of any modality")
                why = f"without an {kinds}"
            if group is not None and is_missing(row[group]):
                problems.add(number, f"has no group (column {self.header[group]!r} is {row[group]!r})")
                why = "without a group"
            if is_missing(row[label]):
                problems.add(number, f"has no label (column {self.header[label]!r} is {row[label]!r})")
                why = "without a label"
            if why:
                gone.append((why, f"line {number}"))
            else:
                usable.append((number, row))
        return usable


def as_path(value: str) -> str:
    """A path as sources expect it: forward slashes (manifests may come from Windows), no `./`."""
    return "" if is_missing(value) else str(PurePosixPath(value.replace("\\", "/")))


def as_number(value: str) -> float | None:
    """A field of a table as a number that float32 can hold; NaN for a missing one, None for other text."""
    if is_missing(value):
        return float("nan")
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) <= float(np.finfo(np.float32).max) else None


NONE = "-"
"""What a user gives to state that there is no such column."""


UNUSED = "not used"


@dataclass(frozen=True)
class ColumnChoices:
    """The user's options for reading a source. None: recognise it; `-`: the source has none."""

    label: str | None = None
    group: str | None = None
    split: str | None = None
    id: str | None = None
    fold: str | None = None
    """The column of folds, or the beginning of the names of a column per fold."""
    fold_lists: Path | None = None
    """Folder of lists of cells per fold and side, see `Lists`."""
    modalities: dict[str, str | list[str]] = field(default_factory=dict)
    """Modality -> column, array, or channel numbers such as `0,1`; several columns of numbers, as a list or
    `cd3,cd4`, are one modality."""
    root: Path | None = None
    """Base folder of a CSV's relative paths; None: the folder of the CSV."""
    levels: str | None = None
    """The meaning of a tree's folder levels, such as `split/class`."""
    leave_out: dict[str, list[str]] = field(default_factory=dict)
    sides: dict[str, str] = field(default_factory=dict)
    """Folder or word of the split column -> train, val or test."""


def recognise_name(what: str, asked: str | None, there: Sequence[str], where: str) -> str | None:
    """The column or array with the role `what` (a key of `NAMES`), or None.

    Raises:
        DataError: several match, or the requested one does not exist.
    """
    if asked is not None:
        if asked == NONE:
            return None
        if asked not in there:
            raise DataError(f"Expected {asked!r} for the {what} in {where}, but it has {', '.join(there)}.")
        return asked
    found = [name for name in there if plain(name) in NAMES[what]]
    if len(found) > 1:
        raise DataError(
            f"Expected one {what} in {where}, but {', '.join(map(repr, found))} each match. "
            f"Choose one with --{what} NAME{'' if what == 'label' else f', or --{what} {NONE} for none'}."
        )
    return found[0] if found else None


def recognise_folds(asked: ColumnChoices, there: Mapping[str, Sequence[str]], where: str) -> tuple[str, ...]:
    """The columns (or arrays) of folds; none if lists of names say it instead.

    Raises:
        DataError: the requested one does not exist.
    """
    if asked.fold == NONE or asked.fold_lists is not None:
        return ()
    if asked.fold is not None:
        if not (found := fold_columns(there, asked.fold)):
            raise DataError(f"Expected {asked.fold!r} for the fold in {where}, but it has {', '.join(there)}.")
        return found
    named = [name for name in there if name != asked.split and is_fold_column(name, there[name])]
    if len(named) > 1:
        raise DataError(
            f"Expected one fold in {where}, but {', '.join(map(repr, named))} each match. Choose one with --fold "
            f"NAME, or --fold {NONE} for none."
        )
    return tuple(named) or fold_columns(there, "fold")


def recognise(file: ManifestFile, asked: ColumnChoices) -> tuple[Columns, list[tuple[str, str]]]:
    """The role of each column of a CSV, and the same as text for display: (column, role) for all of them.

    Raises:
        DataError: no label or no images are found, or two columns match the same role.
    """
    where = str(file.path)
    given, vectors = _kinds(file, asked.modalities)
    taken = {*given.values(), *(column for columns in vectors.values() for column in columns)}
    free = [name for name in file.header if name not in taken]
    values = {name: file.values(name) for name in free}
    fold = recognise_folds(asked, values, where)
    free = [n for n in free if n == asked.split or not (n in fold or is_fold_column(n, values[n]))]
    roles = {what: recognise_name(what, getattr(asked, what), free, where) for what in NAMES}
    if asked.id is None and roles["id"] is not None and _repeats(file, roles["id"]):
        roles["id"] = None  # not unique: `name` of something other than the cell
    if roles["label"] is None:
        raise DataError(
            f"Expected a column of labels in {where} ({', '.join(NAMES['label'][:4])} ...), but found none among "
            f"{', '.join(file.header)}. Name it with --label COLUMN."
        )
    for column in taken:
        file.column(column, "modality")
    if asked.modalities:
        modalities = given
    else:
        columns = [n for n in free if n not in roles.values() and n not in asked.leave_out and image_like(file, n)]
        if not columns:
            raise DataError(
                f"Expected a column of image paths in {where} ({', '.join(SUFFIXES)}), but found none among "
                f"{', '.join(file.header)}. Name them with --modality NAME=COLUMN."
            )
        modalities = dict(zip(distinct_names(columns, where), columns, strict=True))
    meaning = {column: f"images of modality {m}" for m, column in modalities.items()}
    meaning |= {column: f"a number of modality {m}" for m, columns in vectors.items() for column in columns}
    meaning |= {column: what for what, column in roles.items() if column is not None}
    meaning |= dict.fromkeys(fold, "fold" if len(fold) == 1 else "sides of a fold")
    meaning |= dict.fromkeys(asked.leave_out, "leaves cells out")
    label = roles.pop("label")
    assert label is not None
    columns_ = Columns(label=label, modalities=modalities, fold=fold, vectors=vectors, **roles)
    return columns_, [(name, meaning.get(name, UNUSED)) for name in file.header]


def _kinds(
    file: ManifestFile, asked: Mapping[str, str | list[str]]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The user's modalities: those of images, with their column, and those of numbers, with theirs."""
    images: dict[str, str] = {}
    vectors: dict[str, tuple[str, ...]] = {}
    for m, named in asked.items():
        several = named if isinstance(named, list) else [part.strip() for part in named.split(",")]
        if isinstance(named, list) or (len(several) > 1 and named not in file.header):
            vectors[m] = tuple(several)
        else:
            images[m] = named
    return images, vectors


def image_like(file: ManifestFile, name: str) -> bool:
    """Whether every value of a column has the suffix of an image file."""
    values = [value.strip().lower() for value in file.values(name) if not is_missing(value)]
    return bool(values) and all(value.endswith(SUFFIXES) for value in values)


def _repeats(file: ManifestFile, name: str) -> bool:
    values = file.values(name)
    return len(set(values)) < len(values)
