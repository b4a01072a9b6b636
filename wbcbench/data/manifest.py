"""A CSV manifest: one cell a row, its label, and a path of an image per modality."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wbcbench.data.channels import check_names, distinct_names
from wbcbench.data.labels import is_missing, kept_by_split
from wbcbench.data.problems import Problems
from wbcbench.errors import DataError, did_you_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Of files that are taken for images."""


@dataclass(frozen=True)
class Columns:
    """Which column is what; None where the manifest has no such column."""

    label: str
    modalities: Mapping[str, str]
    """Modality -> column."""
    group: str | None = None
    split: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The kept rows, N of them; paths are relative to the root, empty where an image is missing."""

    lines: list[int]
    """[N] line numbers as an editor counts them."""
    labels: list[str]
    paths: dict[str, list[str]]
    """Modality -> [N]."""
    groups: list[str] | None
    split: NDArray[np.str_] | None
    ids: list[str]
    notes: list[str]


class ManifestFile:
    """The header and rows of a CSV file (UTF-8; comma, semicolon or tab).

    Raises:
        DataError: no such file, not UTF-8, no header or no row, a column named twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
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
            start = reader.line_num + 1
            for row in reader:
                if row:
                    self.rows.append((start, row))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"Expected CSV in {path}, but line {len(self.rows) + 2}: {error}. Save it anew."
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
        """The position of a column. Raises `DataError` with the nearest names."""
        if name not in self.header:
            raise DataError(
                f"Expected column {name!r} for the {purpose} in {self.path}, but there is none."
                f"{did_you_mean(name, self.header)} Columns: {', '.join(self.header)}. "
                f"Set dataset.{purpose.split()[0]} to one of them."
            )
        return self.header.index(name)

    def image_columns(self, taken: Sequence[str | None]) -> dict[str, str]:
        """Modality -> column for every column that is not `taken`. Raises `DataError` if one has no images."""
        columns = [name for name in self.header if name not in taken]
        for name in columns:
            at = self.header.index(name)
            values = [row[at] for _, row in self.rows if at < len(row) and not is_missing(row[at])]
            if values and not any(value.strip().lower().endswith(SUFFIXES) for value in values):
                raise DataError(
                    f"Expected paths of images in column {name!r} of {self.path}, but it holds {values[0]!r}. "
                    "Say which columns are images with dataset.modalities.<name>=<column>."
                )
        if not columns:
            raise DataError(
                f"Expected a column of image paths in {self.path}, but it has only "
                f"{', '.join(self.header)}. Add one."
            )
        return dict(zip(distinct_names(columns, f"the columns of {self.path}"), columns, strict=True))

    def select(self, columns: Columns, leave_out: Mapping[str, Sequence[str]], problems: Problems) -> Manifest:
        """Read the rows that are used; a broken one goes to `problems` and is not in the result.

        Raises:
            DataError: an unknown column, or no row left.
        """
        check_names(columns.modalities)
        label = self.column(columns.label, "label")
        group = None if columns.group is None else self.column(columns.group, "group")
        split = None if columns.split is None else self.column(columns.split, "split")
        name = None if columns.id is None else self.column(columns.id, "id")
        images = {m: self.column(c, f"modalities.{m} images") for m, c in columns.modalities.items()}
        refused = {self.column(c, "leave_out column"): {v.strip() for v in vs} for c, vs in leave_out.items()}
        rows = self._complete(problems)
        notes: list[str] = []
        if refused:
            kept = [(n, row) for n, row in rows if not any(row[at] in values for at, values in refused.items())]
            notes.append(f"{len(rows) - len(kept)} cells were left out by {', '.join(leave_out)}.")
            rows = kept
        sides: NDArray[np.str_] | None = None
        if split is not None and rows:
            keep, more = kept_by_split(np.array([row[split] for _, row in rows]), str(self.path))
            notes += more
            rows = [row for row, kept_row in zip(rows, keep, strict=True) if kept_row]
        rows = self._usable(rows, label, group, name, list(images.values()), problems)
        if split is not None:
            sides = np.array([row[split] for _, row in rows], dtype="<U5")
        if not rows and not problems:
            raise DataError(f"Expected cells in {self.path}, but every row was left out. Keep some.")
        paths = {m: [_path(row[at]) for _, row in rows] for m, at in images.items()}
        fallback = [next((p for p in each if p), "") for each in zip(*paths.values(), strict=True)]
        return Manifest(
            lines=[number for number, _ in rows],
            labels=[row[label] for _, row in rows],
            paths=paths,
            groups=None if group is None else [row[group] for _, row in rows],
            split=sides,
            ids=fallback if name is None else [row[name] for _, row in rows],
            notes=notes,
        )

    def _complete(self, problems: Problems) -> list[tuple[int, list[str]]]:
        complete = []
        for number, row in self.rows:
            if len(row) == len(self.header):
                complete.append((number, [value.strip() for value in row]))
            else:
                problems.add(number, f"has {len(row)} fields, but the header has {len(self.header)}")
        return complete

    def _usable(
        self,
        rows: list[tuple[int, list[str]]],
        label: int,
        group: int | None,
        name: int | None,
        images: list[int],
        problems: Problems,
    ) -> list[tuple[int, list[str]]]:
        usable, seen = [], dict[str, int]()
        for number, row in rows:
            before = len(problems)
            if is_missing(row[label]):
                problems.add(number, f"has no label (column {self.header[label]!r} is {row[label]!r})")
            if group is not None and is_missing(row[group]):
                problems.add(number, f"has no group (column {self.header[group]!r} is {row[group]!r})")
            if all(is_missing(row[at]) for at in images):
                problems.add(number, "has no image of any modality")
            if name is not None:
                first = seen.setdefault(row[name], number)
                if first != number:
                    problems.add(number, f"repeats the id {row[name]!r} of line {first}")
            if len(problems) == before:
                usable.append((number, row))
        return usable


def _path(value: str) -> str:
    """A path as the sources take it: forward slashes (manifests also come from Windows), no `./`."""
    return "" if is_missing(value) else str(PurePosixPath(value.replace("\\", "/")))
