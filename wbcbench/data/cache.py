"""The cache: digests of files, and decoded arrays on disk.

The cache may be deleted at any time. Nothing fails if it cannot be written: arrays then stay in memory
and digests are computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from wbcbench.contracts.params import DIGEST_KEY, Parameters
from wbcbench.errors import DataError, UsageError, WbcbenchError
from wbcbench.files import CACHE_VARIABLE, atomic_folder, atomic_write_text, cache_root

log = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
_INDEX_LIMIT = 2000
_MANIFEST = "manifest.json"


def file_stamp(path: Path) -> tuple[int, int]:
    """(size in bytes, mtime in ns), which changes when a file is rewritten. Raises `OSError`."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's content, cached by (resolved path, size, mtime_ns).

    Raises:
        OSError: when the file cannot be read.
    """
    path = path.resolve()
    stamp = file_stamp(path)
    key = hashlib.sha256(f"{path}\0{stamp[0]}\0{stamp[1]}".encode()).hexdigest()
    found = recall("digests", key)
    if isinstance(found, str) and len(found) == 64:
        return found
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if file_stamp(path) == stamp:  # a digest of a file that is still being written must not be cached
        remember("digests", key, digest)
    return digest


def with_digests(params: Parameters, where: str) -> Parameters:
    """Parameters with those filled in that are declared as the digest of the file that another parameter names.

    Raises:
        UsageError: the file does not exist.
    """
    found: dict[str, str] = {}
    for name, field_info in type(params).model_fields.items():
        extra = field_info.json_schema_extra
        source = extra.get(DIGEST_KEY) if isinstance(extra, dict) else None
        path = getattr(params, str(source)) if source else ""
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{where}: expected a file, but {source}={path} is not one. Check the path.")
            found[name] = file_digest(Path(path))
    return params.model_copy(update=found)


def recall(shelf: str, key: str) -> Any:
    """The value that `remember` stored under `key`, or None. An unreadable cache file counts as empty."""
    return _shelf(shelf).get(key)


def remember(shelf: str, key: str, value: Any) -> None:
    """Store one JSON-serialisable value. If the cache cannot be written, it only logs a line."""
    path = cache_root() / f"{shelf}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=10):
            entries = _shelf(shelf)
            entries.pop(key, None)
            entries[key] = value
            while len(entries) > _INDEX_LIMIT:  # dicts keep insertion order, so the oldest entry is removed first
                del entries[next(iter(entries))]
            atomic_write_text(path, json.dumps({"crc32": _sum(entries), "entries": entries}))
    except (OSError, WbcbenchError) as error:  # filelock's Timeout is an OSError
        log.info("Cache %s cannot be written (%s); the value is computed again next time.", path, error)


def _shelf(shelf: str) -> dict[str, Any]:
    path = cache_root() / f"{shelf}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and "crc32" not in stored:
            return {}  # by a version that wrote no checksum
        entries = stored["entries"]
        if isinstance(entries, dict) and stored["crc32"] == _sum(entries):
            return entries
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    log.warning("Cache file %s is damaged; what it held is computed again.", path)
    return {}


def _sum(entries: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entries).encode())


def cached_arrays(key: str, build: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """Arrays by name, built once per `key` and then memory-mapped read-only.

    Args:
        key: hex digest of everything that the arrays depend on.
        build: makes the arrays; called if the cache has no intact entry for this key.
            Its exceptions are passed on, and then nothing is stored.
    """
    folder = cache_root() / "arrays" / key
    found = _open(folder)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        lock.acquire()
    except OSError as error:
        return _in_memory(folder, error, build())
    try:
        found = _open(folder)  # another process may have built it while this one waited
        if found is not None:
            return found
        arrays = {name: np.ascontiguousarray(array) for name, array in build().items()}
        try:
            _discard(folder)
            with atomic_folder(folder) as temporary:
                _store(temporary, arrays)
        except (OSError, WbcbenchError) as error:
            return _in_memory(folder, error, arrays)
    finally:
        lock.release()
    return _open(folder) or arrays


def _in_memory(folder: Path, error: Exception, arrays: Mapping[str, Array]) -> dict[str, Array]:
    log.warning(
        "Decoded images stay in memory because %s cannot be written (%s). Set %s to a writable folder.",
        folder,
        error,
        CACHE_VARIABLE,
    )
    return dict(arrays)


def _discard(folder: Path) -> None:
    """Rename a damaged entry before deleting it, so that no process reads a half-deleted one."""
    if folder.exists():
        aside = folder.with_name(f".tmp-broken-{folder.name}-{secrets.token_hex(4)}")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _store(folder: Path, arrays: Mapping[str, Array]) -> None:
    rows = []
    for i, (name, array) in enumerate(arrays.items()):
        file = folder / f"{i}.npy"
        np.save(file, array, allow_pickle=False)
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
        rows.append(
            {
                "name": name,
                "file": file.name,
                "shape": list(array.shape),
                "dtype": array.dtype.str,
                "bytes": file.stat().st_size,
                "crc32": _checksum(file),
            }
        )
    (folder / _MANIFEST).write_text(json.dumps({"arrays": rows}, indent=2) + "\n", encoding="utf-8")


def _open(folder: Path) -> dict[str, Array] | None:
    """Map a stored entry; None if it is missing or its files do not match the manifest."""
    try:
        rows = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["arrays"]
        arrays: dict[str, Array] = {}
        for row in rows:
            file = folder / str(row["file"])
            if file.stat().st_size != row["bytes"]:
                raise ValueError(f"{file.name} has {file.stat().st_size} bytes instead of {row['bytes']}")
            if _checksum(file) != row.get("crc32"):
                raise ValueError(f"the checksum of {file.name} is not the one stored with it")
            # An array without elements cannot be mapped.
            mode = "r" if np.prod(row["shape"]) else None
            array = np.load(file, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
            if list(array.shape) != row["shape"] or array.dtype.str != row["dtype"]:
                raise ValueError(f"{file.name} does not match the manifest")
            arrays[str(row["name"])] = array
    except FileNotFoundError:
        if folder.exists():
            log.warning("Cache entry %s is incomplete and is rebuilt.", folder)
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        log.warning("Cache entry %s is damaged (%s) and is rebuilt.", folder, error)
        return None
    return arrays


def _checksum(file: Path) -> int:
    """CRC-32 of a file, read once per process unless the file changes: about 2 GB per second."""
    return _checksum_of(file, *file_stamp(file))


@lru_cache(maxsize=1024)
def _checksum_of(file: Path, size: int, changed: int) -> int:
    found = 0
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return found


_SHELF = "md5"


def check_md5(path: Path, stated: str, publisher: str, advice: str) -> None:
    """Compare a file's MD5, cached by (path, size, mtime), with the publisher's.

    Args:
        path: an existing file.
        stated: the publisher's digest, 32 hex digits.
        publisher: its name, for the message.
        advice: what to do to use a different file anyway.

    Raises:
        DataError: the digests differ, or the file cannot be read.
    """
    _compare("MD5", _md5, path, stated, publisher, advice)


def check_sha256(path: Path, stated: str, publisher: str, advice: str) -> None:
    """As `check_md5`, for a file's SHA-256 (64 hex digits)."""
    _compare("SHA-256", file_digest, path, stated, publisher, advice)


def _compare(
    kind: str, digest: Callable[[Path], str], path: Path, stated: str, publisher: str, advice: str
) -> None:
    try:
        found = digest(path.resolve())
    except OSError as error:
        raise DataError(f"Expected to read {path}, but: {error.strerror}.") from error
    if found != stated:
        raise DataError(
            f"Expected {path} as {publisher} published it ({kind} {stated}), but its {kind} is {found}: the "
            f"download is damaged, or the file is another version. Fetch it again. {advice}"
        )


def _md5(path: Path) -> str:
    stamp = file_stamp(path)
    key = f"{path}\0{stamp[0]}\0{stamp[1]}"
    found = recall(_SHELF, key)
    if isinstance(found, str):
        return found
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if file_stamp(path) == stamp:
        remember(_SHELF, key, digest)
    return digest
