"""Files in a folder or a zip: what is listed, what is skipped and why, and which are images."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from wbcbench.contracts.dataset import Account, content_digest
from wbcbench.data.cache import file_digest, file_stamp, recall, remember
from wbcbench.data.csv_table import SUFFIXES
from wbcbench.data.formats import refuse_foreign
from wbcbench.errors import DataError


@dataclass(frozen=True)
class Listing:
    """Everything below a folder or in a zip. Paths are relative, with forward slashes."""

    seen: int
    """Number of files, and of links and folders that cannot be followed."""
    files: list[str]
    """Sorted; without those in `skipped`."""
    skipped: list[tuple[str, str]]
    """(reason, path) of what is never read: hidden, linked folders, names that no manifest can hold."""
    folders: list[str]
    """Sorted, without hidden ones, empty ones included."""


HIDDEN, LINK = "hidden", "linked folders that are not followed"
CLOSED, NAME = "folders that cannot be opened", "with a name that cannot be read"


_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


def _sort_out(paths: Iterable[str], skipped: list[tuple[str, str]]) -> list[str]:
    """The paths that are read, sorted; the others are added to `skipped`."""
    files = []
    for path in paths:
        if any(part.startswith((".", "__MACOSX")) for part in path.split("/")):
            skipped.append((HIDDEN, path))
        elif _UNREADABLE.search(path) or path != path.strip():
            skipped.append((NAME, ascii(path)))
        else:
            files.append(path)
    return sorted(files)


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
    def listing(self) -> Listing:
        """All files and folders, and what is skipped."""

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

    def listing(self) -> Listing:
        """See `FileSource.listing`."""
        paths: list[str] = []
        skipped: list[tuple[str, str]] = []
        folders: list[str] = []

        def closed(error: OSError) -> None:
            skipped.append((CLOSED, Path(str(error.filename)).relative_to(self._root).as_posix()))

        for folder, below, files in os.walk(self._root, onerror=closed):
            at = Path(folder).relative_to(self._root)
            links = [name for name in below if (Path(folder) / name).is_symlink()]
            skipped += [(LINK, (at / name).as_posix()) for name in links]
            folders += [(at / name).as_posix() for name in below if name not in links]
            paths += [(at / name).as_posix() for name in files]
        seen = len(paths) + len(skipped)
        hidden = [f for f in folders if any(part.startswith(".") for part in f.split("/"))]
        return Listing(seen, _sort_out(paths, skipped), skipped, sorted(set(folders) - set(hidden)))


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
            except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
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

    def listing(self) -> Listing:
        """See `FileSource.listing`; files that macOS adds to zips count as hidden."""
        entries = self._opened().namelist()
        names = [name for name in entries if not name.endswith("/")]
        skipped = [("repeated in the zip", name) for name, n in Counter(names).items() for _ in range(n - 1)]
        folders = {str(parent) for name in entries for parent in PurePosixPath(name + "x").parents} - {"."}
        shown = {f for f in folders if not any(part.startswith((".", "__MACOSX")) for part in f.split("/"))}
        return Listing(len(names), _sort_out(dict.fromkeys(names), skipped), skipped, sorted(shown))

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
_SUFFIX = re.compile(r"\.[a-z0-9_]{1,10}")


@dataclass(frozen=True)
class ImageFiles:
    """The images below a folder, and everything else that is there."""

    names: list[str]
    """Relative paths, sorted."""
    left_out: list[tuple[str, str]]
    """(reason, path) of the other files."""
    seen: int
    folders: list[str]

    def account(self, used: int, left_out: Iterable[tuple[str, str]] = ()) -> Account:
        """The account of all files, of which some images may be left out too, for (reason, path)."""
        return Account.of("files", self.seen, used, [*self.left_out, *left_out])


def list_images(source: FileSource) -> ImageFiles:
    """List the images in `source`, by their suffix."""
    found = source.listing()
    names, others = [], list(found.skipped)
    for name in found.files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES:
            names.append(name)
        elif _SUFFIX.fullmatch(suffix):
            others.append((f"{suffix} not readable", name))
        else:
            others.append(("without a suffix", name))
    return ImageFiles(names, others, found.seen, found.folders)


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
