"""Canonical JSON and the versioned hash that identifies a trial. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

HASH_VERSION = 1
"""Incremented whenever the canonical form changes, so that an old identity is never mistaken for a new one."""


def canonical_json(value: Any) -> str:
    """Serialise so that equal content gives equal text: sorted keys, no spaces, 1.0 written as 1.

    Raises:
        ValueError: for NaN, infinity and anything that JSON cannot represent.
    """
    return _text(_plain(value))


def digest(value: Any, *, length: int = 16) -> str:
    """Hex SHA-256 of the canonical JSON, cut to `length` characters."""
    return digest_plain(_plain(value), length=length)


def plain(text: str | bytes) -> Any:
    """Parse JSON text into the values of its canonical form: 1.0 is read as 1.

    Raises:
        ValueError: NaN, infinity, or invalid JSON.
    """
    return json.loads(text, parse_float=_number, parse_constant=_number)


def digest_plain(document: Any, *, length: int = 16) -> str:
    """The `digest` of what `plain` returned, without traversing it again."""
    text = f"wbcbench/{HASH_VERSION}:{_text(document)}"
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def flat(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path -> leaf of nested mappings, in their order; a list counts as a leaf."""
    if isinstance(document, dict):
        for name, inner in document.items():
            yield from flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, document


def _number(written: str | float) -> float | int:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite number, but got {value}.")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _plain(value: Any) -> Any:
    # exact types first: nearly every value has one of them, and a leaderboard hashes millions
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        return {k if type(k) is str else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"Expected a JSON value, but got {type(value).__name__}.")
