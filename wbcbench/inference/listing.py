"""Which files are which cell's: a manifest, folders, a zip of them, or a single image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from wbcbench.data.csv_table import ManifestFile, image_like
from wbcbench.data.file_source import FolderSource, open_source
from wbcbench.data.folders import image_files
from wbcbench.data.labels import is_missing
from wbcbench.data.reading import instead
from wbcbench.errors import DataError
from wbcbench.inference.files import FileCells
from wbcbench.inference.source import NothingFoundError, Order

Found = dict[str, dict[str, str]]
"""Cell -> image -> path."""


def manifest_cells(path: Path, order: Order, called: Mapping[str, Any], root: Path | None = None) -> FileCells:
    """One row a cell; columns named after the images (or as in training), `label` and `id` optional.

    Args:
        called: what the columns are called, as parameters of the data set `folder`.
        root: folder or zip that paths start from; None: the manifest's folder.

    Raises:
        NothingFoundError: no column is called like an image.
    """
    file = ManifestFile(path)
    mapping = called.get("modalities", {})
    label, name = (str(called.get(what, what)) for what in ("label", "id"))
    at = {column: place for place, column in enumerate(file.header)}
    columns = {m: at.get(str(mapping.get(m, m)), at.get(m)) for m in order.names}
    if order.alone and columns[order.names[0]] is None:
        only = [column for column in file.header if image_like(file, column)]
        columns[order.names[0]] = at[only[0]] if len(only) == 1 else None
    if all(place is None for place in columns.values()):
        raise NothingFoundError(f"columns {', '.join(file.header)}")
    refused = {at[column]: values for column, values in called.get("leave_out", {}).items() if column in at}
    rows: list[tuple[int, list[str]]] = []
    errors: dict[int, str] = {}
    for number, row in file.rows:
        cut = [value.strip() for value in row]
        if len(cut) != len(file.header):
            errors[len(rows)] = f"line {number} has {len(cut)} fields, but the header has {len(file.header)}"
            cut = [""] * len(file.header)
        elif any(cut[place] in values for place, values in refused.items()):
            continue
        rows.append((number, cut))

    def paths(place: int | None) -> list[str]:
        found = ["" if place is None else row[place] for _, row in rows]
        return ["" if is_missing(value) else value.replace("\\", "/") for value in found]

    images = {m: paths(place) for m, place in columns.items()}
    ids = [next((p for p in each if p), f"line {n}") for (n, _), each in
           zip(rows, zip(*images.values(), strict=True), strict=True)]  # fmt: skip
    if name in at:
        ids = [row[at[name]] or other for (_, row), other in zip(rows, ids, strict=True)]
    return FileCells(
        str(path),
        open_source(root or path.parent),
        order,
        names=ids,
        paths=images,
        labels=[row[at[label]] for _, row in rows] if label in at else None,
        errors=errors,
    )


def tree_cells(root: Path, order: Order) -> FileCells:
    """A folder or a zip with one subfolder an image and equal names of files in them; with files named as the data
    set of training names them; or, where a cell has one image only, with any images.

    Files in folders that are named as classes are labelled so.

    Raises:
        NothingFoundError: there are no such subfolders and files.
    """
    source = open_source(root)
    with source:
        files = image_files(source)
    found = _placed(files, order.preparation.place, order.names) or _in_subfolders(files, order.names)
    if not found and order.alone:
        found = _all(files, order.names[0])
    if not found:
        given = instead(root)
        advice = f" (give {given} instead)" if given else ""
        raise NothingFoundError(f"no manifest.csv and no such subfolders of images{advice}")
    names = sorted(found)
    labels = [order.label_of(PurePosixPath(name).parent.name) for name in names]
    return FileCells(
        str(root), source, order, names=names,
        paths={m: [found[name].get(m, "") for name in names] for m in order.names},
        labels=labels if any(labels) else None,
    )  # fmt: skip


def single_cell(path: Path, order: Order) -> FileCells:
    """One image file, for a network that reads one image. Raises `NothingFoundError` for others."""
    if not order.alone:
        raise NothingFoundError("one file: give a folder, a manifest, a zip or an .npz")
    return FileCells(str(path), FolderSource(path.parent), order, [path.name], {order.names[0]: [path.name]}, None)


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


def _in_subfolders(files: Sequence[str], names: Sequence[str]) -> Found:
    """`u/b/7.png` is the image u of the cell b/7; all of it may lie in one more folder, as in many a zip."""
    found: Found = defaultdict(dict)
    top = {PurePosixPath(file).parts[0] for file in files}
    skip = 1 if len(top) == 1 and not top & set(names) else 0
    for file in files:
        parts = PurePosixPath(file).parts[skip:]
        if len(parts) > 1 and parts[0] in names:
            _add(found, str(PurePosixPath(*parts[1:]).with_suffix("")), parts[0], file)
    return dict(found)


def _all(files: Sequence[str], name: str) -> Found:
    """Every file a cell, without its suffix where that is unmistakable."""
    stems = [str(PurePosixPath(file).with_suffix("")) for file in files]
    cells = stems if len(set(stems)) == len(stems) else files
    return {cell: {name: file} for cell, file in zip(cells, files, strict=True)}


def _add(found: Found, cell: str, image: str, file: str) -> None:
    if image in found[cell]:
        raise DataError(
            f"Expected one {image} image of cell {cell}, but {found[cell][image]} and {file} both are."
        )
    found[cell][image] = file


__all__ = ["manifest_cells", "single_cell", "tree_cells"]
