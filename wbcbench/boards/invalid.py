"""`leaderboards/invalid.yaml`: records that do not count, each with the reason, so that none is lost in silence.

- record: 0077fc1e62cc3c6b          # trial id, or the digest of one record of it
  reason: trained on the test split by mistake
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from wbcbench.errors import UsageError
from wbcbench.records.schema import Strict
from wbcbench.spec.request import load_yaml


class Invalid(Strict):
    """One record that is struck out."""

    record: str = Field(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$")
    """Trial id (16 hex digits: every record of it), or a record's digest (64)."""
    reason: str = Field(min_length=10, max_length=1000)


def read_invalid(path: Path) -> dict[str, str]:
    """Trial id or digest -> reason. Raises `UsageError` for a file that does not say that."""
    try:
        document = load_yaml(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError) as error:
        raise UsageError(f"Expected a YAML list in {path}, but it cannot be read ({error}).") from error
    try:
        entries = TypeAdapter(list[Invalid]).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"Expected a list of `record:` (16 or 64 hex digits) and `reason:` (10 characters or more) in {path}, "
            f"but {'.'.join(map(str, first['loc']))}: {first['msg']}. Put the digits into quotes."
        ) from error
    return {e.record: e.reason for e in entries}
