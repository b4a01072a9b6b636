"""`standing.json` of a published board: which of its records others claim, and which of these were reproduced.

A board without the file has only records of its maintainers, or is from before the file was introduced: it shows
nothing of this. Records that the file does not list are the maintainers' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wbcbench.errors import RecordError, UsageError
from wbcbench.records.schema import Strict

STANDING = "standing.json"
TrialId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Claim(Strict):
    """A record that others sent in."""

    digest: Digest
    standing: Literal["claimed", "reproduced"]


class StandingFile(Strict):
    """`standing.json`."""

    schema_version: Literal[1] = 1
    records: dict[TrialId, Claim]


class _Verdict(BaseModel):
    """What `verify --rerun --verdict` wrote, as far as it is needed here."""

    model_config = ConfigDict(strict=True)
    reproduced: dict[TrialId, Digest]


def read_standing(folder: Path) -> dict[str, Claim] | None:
    """The claims of a board; None without the file. Raises `RecordError` if it is invalid."""
    path = folder / STANDING
    if not path.is_file():
        return None
    try:
        return StandingFile.model_validate_json(path.read_bytes()).records
    except (OSError, ValidationError) as error:
        raise RecordError(f"{STANDING} cannot be read: {error}") from error


def read_verdict(path: Path) -> dict[str, str]:
    """Trial id -> digest, of the records that were trained again with equal results.

    Raises:
        UsageError: the file is not what `wbcbench leaderboard verify PACK --rerun --verdict FILE` wrote.
    """
    try:
        return _Verdict.model_validate_json(path.read_bytes()).reproduced
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected the output of `wbcbench leaderboard verify PACK --rerun --verdict FILE` in {path}, but it "
            f"cannot be read: {error}"
        ) from error


def updated(
    before: Mapping[str, Claim] | None,
    digests: Mapping[str, str],
    submitted: set[str],
    reproduced: Mapping[str, str],
) -> dict[str, Claim] | None:
    """The claims of a board after records were added; None: it has no file.

    Args:
        before: its claims until now.
        digests: trial id -> digest of all its records.
        submitted: trial ids that packs added now.
        reproduced: see `read_verdict`. Records that are not claimed, or have another digest, are left as they are.
    """
    found = {t: c for t, c in (before or {}).items() if digests.get(t) == c.digest}
    found |= {
        t: Claim(digest=digests[t], standing="claimed") for t in submitted if t in digests and t not in found
    }
    found |= {
        t: Claim(digest=digest, standing="reproduced")
        for t, digest in reproduced.items()
        if t in found and found[t].digest == digest
    }
    return None if before is None and not submitted else found


def standing_text(claims: Mapping[str, Claim]) -> bytes:
    """The content of `standing.json`."""
    return (StandingFile(records=dict(sorted(claims.items()))).model_dump_json(indent=2) + "\n").encode()


__all__ = ["STANDING", "Claim", "read_standing", "read_verdict", "standing_text", "updated"]
