"""Where a manifest's relative paths lead: a folder or a zip, read the same way."""

from __future__ import annotations

import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from wbcbench.data.cache import file_digest, file_stamp
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
        """One value per file, or one for all, that changes whenever a content could (missing: None)."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The file's bytes. Raises `FileNotFoundError`, or `OSError` when it is there but broken."""

    @abstractmethod
    def names(self) -> list[str]:
        """Every file's relative path with forward slashes, sorted; hidden files and folders left out."""

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Release what was opened."""


class FolderSource(FileSource):
    """Files below a folder; absolute paths are taken as they are."""

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
                raise OSError("it is a device or a pipe, and may never end")
            return path.read_bytes()
        except ValueError as error:  # no file can be called so: there is a null byte in it
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
    """Entries of a zip, which is opened at the first read."""

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
                    f"Expected a whole zip at {self._path}, but it cannot be read ({error}). Zip the images anew."
                ) from error
        return self._archive

    def read(self, name: str) -> bytes:
        """See `FileSource.read`."""
        archive = self._opened()
        try:
            return archive.read(name)
        except KeyError as error:
            raise FileNotFoundError(name) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"its zip entry is broken: {error}") from error

    def names(self) -> list[str]:
        """See `FileSource.names`; what macOS adds to zips is left out too."""
        entries = [name for name in self._opened().namelist() if not name.endswith("/")]
        return sorted(
            name for name in entries if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        )

    def close(self) -> None:
        """Close the zip."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def open_source(root: Path) -> FileSource:
    """A folder or a zip. Raises `DataError` for anything else."""
    if root.is_dir():
        return FolderSource(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipSource(root)
    what = "a file that is no zip" if root.is_file() else "not there"
    raise DataError(f"Expected a folder or a .zip of images, but {str(root)!r} is {what}. Set dataset.root.")
