"""Cells in image files: listed in a manifest, sorted into folders, or a single one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbcbench.data.decode import UndecodableError, decode_square, read_header
from wbcbench.data.file_source import FileSource, FolderSource, open_source
from wbcbench.data.labels import is_missing
from wbcbench.data.manifest import ManifestFile
from wbcbench.data.problems import Problems
from wbcbench.errors import DataError
from wbcbench.inference.source import Array, Wanted

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


class FileCells:
    """Cells whose modalities are files. See `Source`."""

    def __init__(
        self,
        where: Path,
        root: FileSource,
        wanted: Wanted,
        names: Sequence[str],
        paths: dict[str, list[str]],
        lines: Sequence[int],
        labels: Sequence[str] | None,
    ) -> None:
        """`paths`: modality -> [N], empty where there is no image. Every file's header is read.

        Raises:
            DataError: all files that the network cannot take, at once.
        """
        self.where, self._root, self._wanted, self._lines = str(where), root, wanted, lines
        self.names = tuple(names)
        self.labels = None if labels is None else tuple(labels)
        self._paths = {m: paths.get(m, [""] * len(self.names)) for m in wanted.modalities}
        columns = [[bool(path) for path in self._paths[m]] for m in wanted.modalities]
        self.present = np.array(columns, dtype=np.bool_).T.reshape(len(self.names), len(columns))
        self.notes: list[str] = []
        self._check_headers()

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        out, problems = self._wanted.blank(stop - start), Problems()
        with self._root as root:
            for m, paths in self._paths.items():
                for row, path in enumerate(paths[start:stop]):
                    if not path:
                        continue
                    try:
                        data = root.read(path)
                        out[m][row] = decode_square(data, self._wanted.channels(m), self._wanted.side)
                    except (UndecodableError, OSError) as error:
                        problems.add(self._lines[start + row], f"{path} {error}")
        problems.raise_if_any(self.where)
        return out

    def _check_headers(self) -> None:
        problems, other = Problems(), 0
        with self._root as root:
            for m, paths in self._paths.items():
                channels, bits = self._wanted.channels(m), self._wanted.statistics[m].bits
                if channels not in (1, 3) and any(paths):
                    raise DataError(
                        f"The network reads {m} with {channels} channels, which image files do not have. "
                        "Give the cells as an .npz."
                    )
                for line, path in zip(self._lines, paths, strict=True):
                    if not path:
                        continue
                    try:
                        header = read_header(root.read(path))
                    except FileNotFoundError:
                        problems.add(line, f"{path} does not exist")
                        continue
                    except (UndecodableError, OSError) as error:
                        problems.add(line, f"{path} {error}")
                        continue
                    if header.bits != bits:
                        problems.add(line, f"{path} has {header.bits} bits, but {m} was trained on {bits}")
                    elif header.channels > channels:
                        problems.add(line, f"{path} is in colour, but {m} was trained on grey")
                    other += (header.width, header.height) != (self._wanted.side, self._wanted.side)
        problems.raise_if_any(self.where)
        if other:
            side = self._wanted.side
            self.notes.append(f"{other} images were not {side} x {side} pixels: cut to a square and resized.")


def manifest_cells(path: Path, wanted: Wanted) -> FileCells:
    """One row a cell; columns named after the modalities (or as in training), `label` and `id` optional."""
    file = ManifestFile(path)
    mapping = wanted.params.get("modalities", {}) if wanted.dataset == "folder" else {}
    label, name = (str(wanted.params.get(what, what)) for what in ("label", "id"))
    at = {column: place for place, column in enumerate(file.header)}
    columns = {m: at.get(str(mapping.get(m, m)), at.get(m)) for m in wanted.modalities}
    if all(place is None for place in columns.values()):
        raise DataError(
            f"Expected columns of image paths named {', '.join(wanted.modalities)} in {path}, but it has "
            f"{', '.join(file.header)}. Rename them."
        )
    problems, rows = Problems(), []
    for number, row in file.rows:
        if len(row) == len(file.header):
            rows.append((number, [value.strip() for value in row]))
        else:
            problems.add(number, f"has {len(row)} fields, but the header has {len(file.header)}")
    problems.raise_if_any(str(path))

    def paths(place: int | None) -> list[str]:
        found = ["" if place is None else row[place] for _, row in rows]
        return ["" if is_missing(value) else value.replace("\\", "/") for value in found]

    images = {m: paths(place) for m, place in columns.items()}
    first = [next((p for p in each if p), f"line {n}") for (n, _), each in
             zip(rows, zip(*images.values(), strict=True), strict=True)]  # fmt: skip
    return FileCells(
        path,
        open_source(path.parent),
        wanted,
        names=[row[at[name]] for _, row in rows] if name in at else first,
        paths=images,
        lines=[number for number, _ in rows],
        labels=[row[at[label]] for _, row in rows] if label in at else None,
    )


def tree_cells(root: Path, wanted: Wanted) -> FileCells:
    """A folder with one subfolder a modality and equal names of files in them; or, for one modality, images.

    Files in folders that are named as classes are labelled so.
    """
    folders = {m: root / m for m in wanted.modalities if (root / m).is_dir()}
    if not folders and len(wanted.modalities) == 1:
        folders = {wanted.modalities[0]: root}
    found: dict[str, dict[str, str]] = {}
    for m, folder in folders.items():
        for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            cell = file.relative_to(folder).with_suffix("").as_posix()
            if m in found.setdefault(cell, {}):
                raise DataError(f"Expected one {m} image of cell {cell} in {folder}, but there are several.")
            found[cell][m] = file.relative_to(root).as_posix()
    if not found:
        raise DataError(
            f"Expected a manifest.csv or subfolders of images named {', '.join(wanted.modalities)} in {root}, "
            "but found none."
        )
    names = sorted(found)
    parents = [Path(name).parent.name for name in names]
    labels = [p if p in wanted.classes else "" for p in parents]
    return FileCells(
        root,
        FolderSource(root),
        wanted,
        names=names,
        paths={m: [found[name].get(m, "") for name in names] for m in wanted.modalities},
        lines=range(1, len(names) + 1),
        labels=labels if any(labels) else None,
    )


def single_cell(path: Path, wanted: Wanted) -> FileCells:
    """One image file, for a network that reads one modality."""
    if len(wanted.modalities) > 1:
        raise DataError(
            f"Expected a folder, a manifest or an .npz, since the network reads {', '.join(wanted.modalities)}, "
            f"but got the file {path}."
        )
    paths = {wanted.modalities[0]: [path.name]}
    return FileCells(path, FolderSource(path.parent), wanted, [path.name], paths, [1], None)


__all__ = ["FileCells", "manifest_cells", "single_cell", "tree_cells"]
