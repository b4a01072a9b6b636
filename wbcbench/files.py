"""The cache's folder, atomic writes of files and folders, and locks between processes."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wbcbench.errors import WbcbenchError

CACHE_VARIABLE = "WBCBENCH_CACHE"


def cache_root() -> Path:
    """The cache's folder: `$WBCBENCH_CACHE` if set, else the user's cache folder. Need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("wbcbench"))


ARRAYS = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, OSError, EOFError, ValueError,
    KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError, RuntimeError, SystemError,
    MemoryError,
)  # fmt: skip
"""Exceptions of `numpy.load` and `zipfile` for bad input. There are many, since an array's header is parsed as a
Python literal, and its dtype is built from that."""

DOCUMENTS = (ValueError, RecursionError)
"""Exceptions of `json.loads` for bad input: invalid JSON or UTF-8, a number too long, nesting too deep. Pydantic's
errors are ValueErrors, too."""


TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files and folders, which are never read."""


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part of it.

    Raises:
        WbcbenchError: the file system refuses (read-only, full, no permission).
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"
        try:
            write_synced(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` in UTF-8, with line ends unchanged."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_text` of indented JSON. Raises `ValueError` for NaN and infinity."""
    atomic_write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with a final newline. Raises `ValueError` for NaN and infinity, which JSON has no form for."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill, and rename it to `path` if the block succeeds.

    If the block raises an exception, the temporary folder is removed. If another process created `path` meanwhile,
    that folder is kept and the new one is removed.

    Raises:
        WbcbenchError: the file system refuses.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            yield temporary
            sync_folder(temporary)
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable, if the system supports it (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert an `OSError` while writing `path` to an error with advice."""
    try:
        yield
    except OSError as error:
        raise WbcbenchError(
            f"Expected to write {path}, but the file system refused: {error.strerror or error}. "
            "No partial file was left. Free space or choose a writable store with --store."
        ) from error


LEASE = 60.0
"""Seconds after which a lease that is not renewed expires."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def held(path: Path, what: str, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file for this process.

    The system releases it if the process dies. On a file system without locks (some network file systems) the
    holder renews a lease instead; if the holder dies, on any machine, the lease expires after `LEASE` seconds.

    Args:
        path: of the lock file; its folder is created.
        what: for the error: what is locked.
        timeout: seconds to wait for another process; negative: no limit.

    Raises:
        WbcbenchError: another process still holds the lock after `timeout`.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
        try:
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                raise
            except (NotImplementedError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise
                lock = SoftFileLease(path.with_suffix(".lease"), lease_duration=LEASE)
                lock.acquire(timeout=timeout)
        except Timeout:
            raise WbcbenchError(
                f"Expected exclusive access to {what}, but another process has held {path} for more than "
                f"{timeout:g} s. Wait for it, or stop it."
            ) from None
    try:
        yield
    finally:
        lock.release()
