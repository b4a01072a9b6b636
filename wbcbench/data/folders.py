"""Image files in a folder or a zip, and folder names that encode classes, modalities and splits."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np

from wbcbench.contracts.dataset import content_digest
from wbcbench.data.cache import file_digest, file_stamp, recall, remember
from wbcbench.data.csv_table import SUFFIXES, Manifest
from wbcbench.data.formats import foreign_among, refuse_foreign
from wbcbench.data.labels import distinct_names, join_spellings, side_of, spelling_notes
from wbcbench.errors import DataError


class FileSource(ABC):
    """Files by relative path. Use in a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def stamps(self, names: Iterable[str]) -> list[object]:
        """One value per file (missing: None), or one for all, which changes whenever the content may have."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The file's bytes. Raises `FileNotFoundError`, or `OSError` if the file is damaged."""

    @abstractmethod
    def names(self) -> list[str]:
        """Relative paths of all files, with forward slashes, sorted, without hidden files and folders."""

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close open files."""


class FolderSource(FileSource):
    """Files below a folder; absolute paths are used unchanged."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def stamps(self, names: Iterable[str]) -> list[object]:
        """(size, mtime_ns) per file."""
        return [self._stamp(name) for name in names]

    def _stamp(self, name: str) -> tuple[int, int] | None:
        try:
            return file_stamp(self._root / name)
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> bytes:
        """See `FileSource.read`."""
        path = self._root / name
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise OSError("it is a device or a pipe, not a regular file")
            if path.is_file():
                _limit(path.stat().st_size)
            return path.read_bytes()
        except ValueError as error:  # the name contains a null byte
            raise FileNotFoundError(name) from error

    def names(self) -> list[str]:
        """See `FileSource.names`."""
        found = []
        for folder, below, files in os.walk(self._root):
            below[:] = [name for name in below if not name.startswith(".")]
            at = Path(folder).relative_to(self._root)
            found += [(at / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)


class ZipSource(FileSource):
    """Entries of a zip, which is opened on first read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None

    def stamps(self, names: Iterable[str]) -> list[object]:
        """The digest of the whole zip."""
        return [file_digest(self._path)]

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self._path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(
                    f"Expected a valid zip at {self._path}, but it cannot be read ({error}). Create it again."
                ) from error
        return self._archive

    def read(self, name: str) -> bytes:
        """See `FileSource.read`."""
        archive = self._opened()
        try:
            _limit(archive.getinfo(name).file_size)
            return archive.read(name)
        except KeyError as error:
            raise FileNotFoundError(name) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"its zip entry is damaged: {error}") from error

    def names(self) -> list[str]:
        """See `FileSource.names`; files that macOS adds to zips are left out too."""
        entries = [name for name in self._opened().namelist() if not name.endswith("/")]
        return sorted(
            name for name in entries if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        )

    def close(self) -> None:
        """Close the zip."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def refuse_if_absent(source: FileSource, names: Sequence[str], root: Path) -> None:
    """Raise `DataError` if none of the first thousand of many files is there, before all are looked for."""
    if len(names) > 1000 and not any(source.stamps(names[:1000])):
        raise DataError(
            f"Expected images below {root}, but none of the first 1,000 of {len(names):,} exists, such as "
            f"{names[0]!r}. Paths are relative to it: set another folder with dataset.root or --root."
        )


MAX_FILE = 1 << 30
"""Bytes of an image file; a zip states what an entry unpacks to."""


def _limit(size: int) -> None:
    if size > MAX_FILE:
        raise OSError(f"it has {size / 2**30:.1f} GB; image files of up to {MAX_FILE >> 30} GB are read")


def open_source(root: Path) -> FileSource:
    """A folder or a zip. Raises `DataError` for anything else."""
    refuse_foreign(root, "a folder or a .zip of images")
    if root.is_dir():
        return FolderSource(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipSource(root)
    what = "a file, not a zip" if root.is_file() else "missing"
    raise DataError(f"Expected a folder or a .zip of images, but {str(root)!r} is {what}. Set dataset.root.")


_SHELF = "copies"
_CHANNEL = re.compile(r"_ch\d+(\.ome)?\.\w+$", re.IGNORECASE)


def image_files(source: FileSource, below: str = "") -> list[str]:
    """Relative paths of images below a folder of `source`, sorted, without hidden ones."""
    start = f"{below}/" if below else ""
    return [n for n in source.names() if n.startswith(start) and n.lower().endswith(SUFFIXES)]


def unite(name: str) -> str:
    """A folder's name in lower case, without spaces, hyphens and underscores: `Test-A` and `testa` match."""
    return re.sub(r"[\s_-]", "", name).lower()


def find_folder(names: Sequence[str], wanted: str) -> str | None:
    """The path of the first folder in these paths whose name matches `wanted` (see `unite`), or None."""
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        for depth, part in enumerate(parts):
            if unite(part) == unite(wanted):
                return "/".join(parts[: depth + 1])
    return None


def copied_files(source: FileSource, names: Sequence[str], root: Path) -> list[list[str]]:
    """Groups of two or more files with equal bytes, in the order of `names`; cached by sizes and times.

    Raises:
        OSError: a file cannot be read.
    """
    key = content_digest("copies-1", str(root.resolve()), list(names), source.stamps(names))
    known = recall(_SHELF, key)
    if isinstance(known, list):
        return known
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[hashlib.sha256(source.read(name)).hexdigest()].append(name)
    found = [group for group in same.values() if len(group) > 1]
    remember(_SHELF, key, found)
    return found


LEVELS = ("class", "modality", "group", "split")


@dataclass(frozen=True)
class Tree:
    """Cells found in folders, N of them."""

    levels: str
    """The meaning of the folder levels, outermost first, such as `modality/class`."""
    listing: Manifest
    dropped: list[tuple[str, str]]
    """(file, why it was dropped)."""


def read_tree(source: FileSource, levels: str | None, where: str) -> Tree:
    """List the cells of a tree with one folder per class, or with class folders in folders of modalities,
    groups or sides of a split.

    Images of the same cell in several modalities have the same name, apart from the suffix.

    Args:
        levels: `class`, `modality/class`, `split/class`, `class/group` ...; None: inferred, if only one fits.
        where: the folder, for messages.

    Raises:
        DataError: no images, or levels that are unknown or cannot be inferred.
    """
    files = image_files(source)
    if not files:
        raise DataError(
            f"Expected folders of images ({', '.join(SUFFIXES)}) in {where}, but it has none. "
            f"{foreign_among(source.names())}".rstrip()
        )
    exported = [name for name in files if _CHANNEL.search(name)]
    if levels is None and 2 * len(exported) > len(files):
        raise DataError(
            f"Expected one file per cell in {where}, but {exported[0]!r} looks like one channel of a cell from an "
            "imaging flow cytometer. Use --dataset imaging_flow, or --levels class if it is not."
        )
    words = (levels or _recognise(files, where)).split("/")
    if "class" not in words or len(set(words)) != len(words) or not set(words) <= set(LEVELS):
        raise DataError(
            f"Expected levels such as class or modality/class, of {', '.join(LEVELS)}, "
            f"but got {'/'.join(words)!r}."
        )
    dropped: list[tuple[str, str]] = []
    cells: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in files:
        *folders, last = PurePosixPath(name).parts
        if len(folders) != len(words):
            dropped.append((name, f"is {len(folders)} folders deep instead of {len(words)}"))
            continue
        # macOS decomposes accents, and the same class may come from elsewhere
        at = dict(zip(words, (unicodedata.normalize("NFC", folder) for folder in folders), strict=True))
        if "split" in at and side_of(at["split"]) is None:
            dropped.append((name, f"folder {at['split']!r} is not one of train, val, test"))
            continue
        key = tuple(at.get(w, "") for w in ("split", "group", "class"))
        # without modality folders each file is a cell, so a.png and a.tif are two cells
        key = (*key, PurePosixPath(last).stem if "modality" in at else last)
        modality = at.get("modality", "image")
        if modality in cells[key]:
            dropped.append((name, f"is a second {modality} image of the cell of {cells[key][modality]}"))
        else:
            cells[key][modality] = name
    keys = sorted(cells)
    if not keys:
        raise DataError(
            f"Expected images {len(words)} folders deep ({'/'.join(words)}) in {where}, but found none."
        )
    originals = sorted({m for images in cells.values() for m in images})
    modalities = dict(zip(distinct_names(originals, where), originals, strict=True))
    paths = {m: [cells[key].get(original, "") for key in keys] for m, original in modalities.items()}
    labels, notes = join_spellings([key[2] for key in keys], "class")
    groups, more = join_spellings([key[1] for key in keys], "group") if "group" in words else (None, [])
    listing = Manifest(
        lines=list(range(2, len(keys) + 2)),
        labels=labels,
        paths=paths,
        groups=groups,
        split=np.array([side_of(key[0]) for key in keys], dtype="<U5") if "split" in words else None,
        ids=[next(p for p in each if p) for each in zip(*paths.values(), strict=True)],
        notes=[*notes, *more, *spelling_notes(labels, groups, where)],
    )
    return Tree("/".join(words), listing, dropped)


def _recognise(files: Sequence[str], where: str) -> str:
    """The levels, if only one interpretation fits. Raises `DataError`."""
    folders = [PurePosixPath(name).parts[:-1] for name in files]
    depth = max(map(len, folders))
    deep = [f for f in folders if len(f) == depth]
    if depth == 1:
        return "class"
    if depth == 2:
        outer = sorted({f[0] for f in deep})
        if all(map(side_of, outer)):
            return "split/class"
        inner = [{f[1] for f in deep if f[0] == name} for name in outer]
        cells = [
            {(p.parts[1], p.stem) for p in map(PurePosixPath, files) if len(p.parts) == 3 and p.parts[0] == name}
            for name in outer
        ]
        # every outer folder has the same classes and mostly the same file names
        if len(outer) > 1 and all(i == inner[0] for i in inner) and len(inner[0]) > 1:
            shared = set.intersection(*cells)
            if 2 * len(shared) > max(map(len, cells)):
                return "modality/class"
    raise DataError(
        f"Expected a folder per class in {where}, but images are {depth} folders deep, such as {files[-1]!r}, and "
        "the meaning of the folders is ambiguous. Give it with --levels, such as --levels group/class or "
        "modality/class."
    )
