"""Files that a publisher states digests of: is this file the one that was published?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from wbcbench.data.cache import file_digest, file_stamp, recall, remember
from wbcbench.errors import DataError

_SHELF = "md5"


def check_md5(path: Path, stated: str, publisher: str, advice: str) -> None:
    """Compare a file's MD5 with the publisher's, remembered by (path, size, mtime).

    Args:
        path: a file that is there.
        stated: 32 hex digits.
        publisher: who stated it, for the message.
        advice: how to go on with another file nevertheless.

    Raises:
        DataError: the digests differ, or the file cannot be read.
    """
    _compare("MD5", _md5, path, stated, publisher, advice)


def check_sha256(path: Path, stated: str, publisher: str, advice: str) -> None:
    """The same of a file's SHA-256, 64 hex digits."""
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
