"""Read the cells to classify from a path: image files, tables, archives; modalities are derived as in training."""

from __future__ import annotations

import functools
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wbcbench.contracts import Account, Dataset, Preparation
from wbcbench.contracts.dataset import indicated
from wbcbench.data.csv_table import ManifestFile, as_number, as_path, image_like
from wbcbench.data.decode import ImageHeader, UndecodableError, decode_whole, fits, read_header
from wbcbench.data.folders import FileSource, FolderSource, list_images, open_source
from wbcbench.data.formats import foreign_among, refuse_foreign
from wbcbench.data.labels import NAMES, plain
from wbcbench.data.reading import Described, described, instead
from wbcbench.deploy.cells import (
    UNREAD,
    Array,
    CellSource,
    Kind,
    NothingFoundError,
    Order,
    Wanted,
    loaded_cells,
    npz_cells,
    refuse_if_all_broken,
)
from wbcbench.errors import DataError
from wbcbench.spec.load import merged, validate


class FileCells:
    """See `CellSource`. Headers are read at the start, to find most errors before any computation."""

    def __init__(
        self,
        where: str,
        root: FileSource,
        order: Order,
        names: Sequence[str],
        paths: Mapping[str, Sequence[str]],
        labels: Sequence[str] | None,
        account: Account,
        errors: Mapping[int, str] | None = None,
        numbers: Mapping[str, Array] | None = None,
    ) -> None:
        """`paths`: image -> [N], empty where an image is missing; `errors`: cells known to be invalid; `numbers`:
        vector -> [N, F], NaN where a number is missing.

        `account`: of the files or rows that all N cells come from, with and without errors.
        """
        self.where, self._root, self._order = where, root, order
        self.names = tuple(names)
        self.labels = None if labels is None else tuple(labels)
        self._account = account
        self._paths = {m: paths.get(m, [""] * len(self.names)) for m in order.pictures}
        self._numbers = order.no_numbers(len(self.names)) if numbers is None else {**numbers}
        there: dict[str, Array] = {m: np.array([bool(p) for p in own], np.bool_) for m, own in self._paths.items()}
        there |= {m: np.logical_not(np.isnan(x).all(1)) for m, x in self._numbers.items()}
        self.present = np.stack([there[m] for m in order.names], axis=1)
        self.notes: list[str] = []
        self.errors: dict[int, str] = dict(errors or {})
        for row in np.flatnonzero(~self.present.any(1)).tolist():
            self.errors.setdefault(row, f"has no image of {' or '.join(order.names)}")
        self._check_headers()

    def accounts(self) -> tuple[Account, ...]:
        """See `CellSource.accounts`."""
        rows = sorted(self.errors)
        if self._account.unit == "files":
            return (
                self._account.without(UNREAD, [p[row] for row in rows for p in self._paths.values() if p[row]]),
            )
        return (self._account.without(UNREAD, [self.names[row] for row in rows]),)

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `CellSource.read`."""
        out, side = self._order.blank(stop - start), self._order.side
        out |= {m: x[start:stop] for m, x in self._numbers.items()}
        with self._root as root:
            for m, paths in self._paths.items():
                channels = self._order.kinds[m].channels
                for row in range(start, stop):
                    if paths[row] and row not in self.errors:
                        try:
                            whole = decode_whole(root.read(paths[row]), channels)
                            out[m][row - start] = self._order.square(whole, side)
                        except (UndecodableError, OSError) as error:
                            self.errors[row] = f"{paths[row]} {_why(error)}"
        return out

    def _check_headers(self) -> None:
        other, side = 0, self._order.side
        with self._root as root:
            for m, paths in self._paths.items():
                for row, path in enumerate(paths):
                    if not path or row in self.errors:
                        continue
                    try:
                        header = read_header(root.read(path))
                    except (UndecodableError, OSError) as error:
                        self.errors[row] = f"{path} {_why(error)}"
                        continue
                    if unfit := self._unfit(m, header):
                        self.errors[row] = f"{path} {unfit}"
                    other += (header.width, header.height) != (side, side)
        if other:
            self.notes.append(f"{other} images were not {side} x {side} pixels: cropped or padded, and resized.")

    def _unfit(self, name: str, header: ImageHeader) -> str:
        """Why a readable image does not fit the network; empty if it does."""
        kind = self._order.kinds[name]
        if header.bits != kind.bits[0]:
            return f"has {header.bits} bits, but {name} was trained on {kind.bits[0]}"
        if not fits(header.channels, kind.channels):
            return f"has {header.channels} channels, but {name} was trained on {kind.channels}"
        if header.channels > kind.channels and not self._order.preparation.any_colour:
            return f"is in colour, but {name} was trained on grey"
        return ""


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)


Found = dict[str, dict[str, str]]
"""Cell -> image -> path."""


def manifest_cells(path: Path, order: Order, called: Mapping[str, Any], root: Path | None = None) -> FileCells:
    """One row per cell; columns are named after the images (or as in training); `label` and `id` are optional.

    Args:
        called: names of the columns, as parameters of the data set `folder`.
        root: folder or zip that paths are relative to; None: the manifest's folder.

    Raises:
        NothingFoundError: no column has the name of an image.
    """
    file = ManifestFile(path)
    label, name = _column(file, called, "label"), _column(file, called, "id")
    at = {column: place for place, column in enumerate(file.header)}
    alike = {order.name_of(column): place for column, place in at.items() if image_like(file, column)}
    mapping = called.get("modalities", {})
    columns = {m: at.get(str(mapping.get(m, m)), at.get(m, alike.get(m))) for m in order.pictures}
    vectors = {
        m: _vector_columns(file, m, mapping.get(m), kind, bool(called.get("indicators")))
        for m, kind in order.kinds.items() if kind.vector
    }  # fmt: skip
    if order.alone and columns[order.names[0]] is None:
        only = [column for column in file.header if image_like(file, column)]
        columns[order.names[0]] = at[only[0]] if len(only) == 1 else None
    if all(place is None for place in columns.values()) and not any(vectors.values()):
        raise NothingFoundError(f"columns {', '.join(file.header)}")
    refused = {at[column]: values for column, values in called.get("leave_out", {}).items() if column in at}
    rows: list[tuple[int, list[str]]] = []
    errors: dict[int, str] = {}
    gone: list[tuple[str, str]] = []
    for number, row in file.rows:
        cut = [value.strip() for value in row]
        out = next((f"left out by {file.header[at]}={cut[at]}" for at, vs in refused.items()
                    if at < len(cut) and cut[at] in vs), "")  # fmt: skip
        if len(cut) != len(file.header):
            errors[len(rows)] = f"line {number} has {len(cut)} fields, but the header has {len(file.header)}"
            cut = [""] * len(file.header)
        elif out:
            gone.append((out, f"line {number}"))
            continue
        rows.append((number, cut))

    def paths(place: int | None) -> list[str]:
        found = ["" if place is None else row[place] for _, row in rows]
        return [as_path(value) for value in found]

    images = {m: paths(place) for m, place in columns.items()}
    ids = [next((p[i] for p in images.values() if p[i]), f"line {n}") for i, (n, _) in enumerate(rows)]
    numbers = order.no_numbers(len(rows))
    for m, named in vectors.items():
        if named:
            read = _numbers_of(rows, {column: at[column] for column in named}, errors)
            numbers[m] = indicated(read) if called.get("indicators") else read
    if name is not None:
        ids = [row[at[name]] or other for (_, row), other in zip(rows, ids, strict=True)]
    return FileCells(
        str(path),
        open_source(root or path.parent),
        order,
        names=ids,
        paths=images,
        labels=None if label is None else [row[at[label]] for _, row in rows],
        account=Account.of("rows", len(file.rows), len(rows), gone),
        errors=errors,
        numbers=numbers,
    )


def _vector_columns(
    file: ManifestFile, modality: str, said: list[str] | str | None, kind: Kind, indicators: bool
) -> list[str]:
    """The columns of a vector's numbers: as in training, or those of their names; none if the table has none.

    Raises:
        DataError: it has some of them.
    """
    known = kind.features[: kind.channels // 2] if indicators else kind.features
    columns = list(said) if isinstance(said, list) else list(known)
    if len(columns) != len(known):
        raise DataError(
            f"Expected {len(known)} numbers for {modality}, as in training ({', '.join(known)}), but the data set "
            f"names {len(columns)}: {', '.join(columns)}."
        )
    missing = [column for column in columns if column not in file.header]
    if len(missing) == len(columns):
        return []
    if missing:
        raise DataError(
            f"Expected columns {', '.join(columns)} in {file.path} for {modality}, as in training, but "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there. Leave a field empty where a "
            "number is missing."
        )
    return columns


def _numbers_of(rows: Sequence[tuple[int, list[str]]], at: Mapping[str, int], errors: dict[int, str]) -> Array:
    """[N, F] of these columns, NaN where a number is missing; adds rows with other text to `errors`."""
    found = np.full((len(rows), len(at)), np.nan, np.float32)
    for i, (_, row) in enumerate(rows):
        for j, (column, place) in enumerate(at.items()):
            value = as_number(row[place])
            if value is None:
                errors.setdefault(i, f"has {row[place]!r} in column {column!r}, which is not a number")
            else:
                found[i, j] = value
    return found


def _column(file: ManifestFile, called: Mapping[str, Any], what: str) -> str | None:
    """The column of labels or ids: as in training, else as `wbcbench data` recognises it; None without one."""
    name = str(called.get(what, what))
    if name in file.header or what == "id":
        return name if name in file.header else None
    found = [column for column in file.header if plain(column) in NAMES[what]]
    return found[0] if len(found) == 1 else None


def tree_cells(root: Path, order: Order) -> FileCells:
    """A folder or a zip in one of these layouts: one subfolder per image, with the same file names in each; files
    named as in the training data set; or, if a cell has only one image, any images.

    A file in a folder with the name of a class gets that label.

    Raises:
        NothingFoundError: it has none of these layouts.
    """
    source = open_source(root)
    with source:
        images = list_images(source)
    files = images.names
    found = _placed(files, order.preparation.place, order.pictures) or _in_subfolders(files, order.name_of)
    if not found and order.alone:
        found = _all(files, order.names[0])
    if not found:
        given = instead(root)
        advice = f" (give {given} instead)" if given else ""
        if not files and (foreign := foreign_among(source.listing().files)):
            advice = f". {foreign}"
        raise NothingFoundError(f"no manifest.csv and no image subfolders of these names{advice}")
    names = sorted(found)
    used = {path for own in found.values() for path in own.values()}
    others = [(f"not an image of {' or '.join(order.names)}", file) for file in files if file not in used]
    labels = [order.label_of(PurePosixPath(name).parent.name) for name in names]
    return FileCells(
        str(root), source, order, names=names,
        paths={m: [found[name].get(m, "") for name in names] for m in order.pictures},
        labels=labels if any(labels) else None, account=images.account(len(used), others),
    )  # fmt: skip


def single_cell(path: Path, order: Order) -> FileCells:
    """One image file, for a network that reads one image. Raises `NothingFoundError` for others."""
    if not order.alone:
        raise NothingFoundError("one file: give a folder, a manifest, a zip or an .npz")
    paths = {order.pictures[0]: [path.name]}
    return FileCells(str(path), FolderSource(path.parent), order, [path.name], paths, None, Account("files", 1, 1))


def _placed(
    files: Sequence[str], place: Callable[[str], tuple[str, str] | None] | None, names: Sequence[str]
) -> Found:
    found: Found = defaultdict(dict)
    for file in files if place else ():
        assert place is not None
        cell, image = place(file) or ("", "")
        if image in names:
            _add(found, cell, image, file)
    return dict(found)


def _in_subfolders(files: Sequence[str], name_of: Callable[[str], str | None]) -> Found:
    """`u/b/7.png` and `b/u/7.png` are the image u of the cell b/7. All may be in one more folder, as in zips."""
    found: Found = defaultdict(dict)
    top = {PurePosixPath(file).parts[0] for file in files}
    skip = 1 if len(top) == 1 and not any(map(name_of, top)) else 0
    for file in files:
        *folders, last = PurePosixPath(file).parts[skip:]
        for level, folder in enumerate(folders):
            image = name_of(folder)
            if image is not None:
                cell = PurePosixPath(*folders[:level], *folders[level + 1 :], last).with_suffix("")
                _add(found, str(cell), image, file)
                break
    return dict(found)


def _all(files: Sequence[str], name: str) -> Found:
    """Each file is a cell, named without the suffix if that is unambiguous."""
    stems = [str(PurePosixPath(file).with_suffix("")) for file in files]
    cells = stems if len(set(stems)) == len(stems) else files
    return {cell: {name: file} for cell, file in zip(cells, files, strict=True)}


def _add(found: Found, cell: str, image: str, file: str) -> None:
    if image in found[cell]:
        raise DataError(
            f"Expected one {image} image of cell {cell}, but got {found[cell][image]} and {file}. Remove one."
        )
    found[cell][image] = file


class DerivedCells:
    """Cells of another source, converted to the network's modalities. See `CellSource`."""

    def __init__(self, raw: CellSource, given: Order, wanted: Order) -> None:
        """`raw` has the images of `given`; `wanted` are those of the network."""
        preparation: Preparation = wanted.preparation
        assert preparation.derive is not None
        self._raw, self._derive, self._wanted = raw, preparation.derive, wanted
        self.where, self.names, self.labels, self.errors = raw.where, raw.names, raw.labels, raw.errors
        columns = [[given.names.index(name) for name in preparation.parts(m)] for m in wanted.names]
        self.present = np.stack([raw.present[:, c].all(1) for c in columns], axis=1)
        self.notes = raw.notes
        self.accounts = raw.accounts
        self.notes.append(f"{', '.join(wanted.names)} were computed from {', '.join(given.names)}.")

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        made = self._derive(self._raw.read(start, stop))
        here = self.present[start:stop]
        return {
            m: np.where(here[:, i, None, None, None], self._checked(m, made[m], kind), 0).astype(kind.dtype)
            for i, (m, kind) in enumerate(self._wanted.kinds.items())
        }

    def _checked(self, modality: str, images: Array, kind: Kind) -> Array:
        if images.dtype != kind.dtype or images.shape[1] != kind.channels:
            raise DataError(
                f"Expected {modality} with {kind.channels} channels of {np.dtype(kind.dtype)}, as in training, "
                f"but from {self.where} it becomes {images.shape[1]} of {images.dtype}. Convert the images first."
            )
        return images


MANIFEST = "manifest.csv"
TABLES = (".csv", ".tsv", ".txt")


def open_cells(path: Path, wanted: Wanted, root: Path | None = None) -> CellSource:
    """Cells of a folder, a manifest (.csv), an .npz, a zip, one image file, or a `dataset.yaml`.

    A network with derived modalities accepts these, or the images that they are derived from.

    Args:
        root: folder or zip that paths in a manifest are relative to; None: its folder.

    Raises:
        DataError: nothing is there, or nothing that the network can read.
    """
    if not path.exists():
        raise DataError(
            f"Expected a folder, a manifest (.csv), an .npz, a zip or an image, but {path} does not exist."
        )
    read = _reader(path, wanted, root)
    reasons = []
    for order in wanted.orders:
        try:
            source: CellSource = read(order)
        except NothingFoundError as error:
            reasons.append(str(error))
            continue
        refuse_if_all_broken(source, order.names)
        if wanted.dataset is None:
            source.notes.append(
                "The training data set is not installed here: images are cropped to their middle square."
            )
        return source if order is wanted.orders[0] else DerivedCells(source, order, wanted.orders[0])
    raise DataError(
        f"Expected images of {wanted.spoken()} in {path}, but it has {reasons[-1]}. Name columns, folders or "
        "arrays after the images."
    )


def _reader(path: Path, wanted: Wanted, root: Path | None) -> Callable[[Order], CellSource]:
    """A function that reads what is at `path`, given the images to look for."""
    said, called = described(path), wanted.preparation.names
    if said is not None:
        return _described(said, wanted)
    if wanted.dataset is not None and wanted.dataset.reads(path):
        return _loaded(path, _like_training(wanted.dataset, {"path": str(path)}))
    refuse_foreign(path, "a folder, a manifest (.csv), an .npz, a zip or an image")
    if path.is_dir():
        manifest = path / MANIFEST
        if manifest.is_file():
            return lambda order: manifest_cells(manifest, order, called, root)
        return lambda order: tree_cells(path, order)
    if path.suffix.lower() == ".npz":
        return lambda order: npz_cells(path, order, called)
    if path.suffix.lower() in TABLES:
        return lambda order: manifest_cells(path, order, called, root)
    if zipfile.is_zipfile(path):
        return lambda order: tree_cells(path, order)
    return lambda order: single_cell(path, order)


def _described(said: Described, wanted: Wanted) -> Callable[[Order], CellSource]:
    """The cells of a `dataset.yaml`. Image files are read one by one, so that a damaged one affects its cell only;
    other data sets are loaded."""
    dataset = wanted.opener(said.name, said.params)
    params = dataset.params.model_dump(mode="json")
    path, root = (Path(str(params.get(what) or "")).expanduser() for what in ("path", "root"))
    if dataset.name == "folder":
        manifest = path / MANIFEST if path.is_dir() else path
        return lambda order: manifest_cells(manifest, order, params, root if params["root"] else None)
    if dataset.name == "npz":
        return lambda order: npz_cells(path, order, params)
    if wanted.dataset is not None and type(dataset) is type(wanted.dataset):
        dataset = _like_training(wanted.dataset, params)
    return _loaded(said.config, dataset)


def _like_training(trained: Dataset, params: dict[str, Any]) -> Dataset:
    """The data set with the paths of `params`, and all other parameters as in training."""
    cls = type(trained)
    return cls(validate(cls.Params, merged(params, trained.public_params()), f"dataset {cls.name}"))


def _loaded(where: Path, dataset: Dataset) -> Callable[[Order], CellSource]:
    load = functools.cache(dataset.load)
    return lambda order: loaded_cells(str(where), load(order.side), order)


__all__ = ["TABLES", "DerivedCells", "FileCells", "manifest_cells", "open_cells", "single_cell", "tree_cells"]
