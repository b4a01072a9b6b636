"""Documents that carry a checksum of their own content: they stand beside records, and are in no digest of theirs.

A change of a number by hand, a flipped bit, a file that was cut off: reading says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from wbcbench.errors import RecordError
from wbcbench.records.spoilt import DOCUMENTS
from wbcbench.spec import digest

CHECKSUM = "checksum"


class Document(NamedTuple):
    """What a file says."""

    content: dict[str, Any]
    checked: bool
    """False: written before such files had a checksum."""


def checksummed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with 64 hex digits over it, as it is written."""
    body = {name: value for name, value in content.items() if name != CHECKSUM}
    return {**body, CHECKSUM: digest(body, length=64)}


def read_checksummed(path: Path, name: str = "") -> Document:
    """Read a file that `checksummed` was written to, or an older one without checksum.

    Args:
        path: of the file.
        name: what it is called in errors, where these go to other machines; else the path.

    Raises:
        RecordError: it cannot be read, is no JSON object, or is not what was written.
    """
    name = name or str(path)
    try:
        content = json.loads(path.read_bytes())
        intact = isinstance(content, dict) and content.get(CHECKSUM, "") in ("", checksummed(content)[CHECKSUM])
    except OSError as error:
        raise RecordError(f"{name} cannot be read ({error.strerror or error}).") from error
    except DOCUMENTS as error:
        raise RecordError(f"{name} is damaged ({str(error).splitlines()[0]}).") from error
    if not intact:
        reason = "its content does not have its checksum" if isinstance(content, dict) else "it is no JSON object"
        raise RecordError(f"{name} is damaged ({reason}).")
    checked = bool(content.pop(CHECKSUM, ""))
    return Document(content, checked)


__all__ = ["CHECKSUM", "Document", "checksummed", "read_checksummed"]
