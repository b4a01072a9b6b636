"""Files that a publisher states digests of: is this file the one that was published?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from wbcbench.data.cache import file_stamp, recall, remember
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
    try:
        found = _md5(path.resolve())
    except OSError as error:
        raise DataError(f"Expected to read {path}, but: {error.strerror}.") from error
    if found != stated:
        raise DataError(
            f"Expected {path} as {publisher} published it (MD5 {stated}), but its MD5 is {found}: the download "
            f"is damaged, or the file is another version. Fetch it again. {advice}"
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
