"""Image files in folders that say what they are: classes, modalities, sides of a split."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from wbcbench.contracts.dataset import content_digest
from wbcbench.data.cache import recall, remember
from wbcbench.data.file_source import FileSource
from wbcbench.data.manifest import SUFFIXES

_SHELF = "copies"


def image_files(source: FileSource, below: str = "") -> list[str]:
    """Relative paths of images below a folder of `source`, sorted; hidden ones left out."""
    start = f"{below}/" if below else ""
    return [n for n in source.names() if n.startswith(start) and n.lower().endswith(SUFFIXES)]


def unite(name: str) -> str:
    """A folder's name without case, blanks, hyphens and underscores: `Test-A` and `testa` are one."""
    return re.sub(r"[\s_-]", "", name).lower()


def find_folder(names: Sequence[str], wanted: str) -> str | None:
    """The first folder of these paths that is called `wanted` (see `unite`), as a path, or None."""
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        for depth, part in enumerate(parts):
            if unite(part) == unite(wanted):
                return "/".join(parts[: depth + 1])
    return None


def copied_files(source: FileSource, names: Sequence[str], root: Path) -> list[list[str]]:
    """Files with equal bytes, two or more each, in the order of `names`; remembered by sizes and times.

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
