"""`evaluations/<trial>.json`: what `--evaluate full` found out about a record's network, beside the records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbcbench.errors import RecordError
from wbcbench.records.atomic import atomic_write_json
from wbcbench.records.checksummed import checksummed, read_checksummed

EXAMINATION_VERSION = 1
AGAIN = "`wbcbench run ... --evaluate full` examines again."


@dataclass(frozen=True)
class Examination:
    """One file of `evaluations/`."""

    entry: dict[str, Any]
    """Everything in it; `result` is what was found."""
    checked: bool
    """False: written before examinations had a checksum."""

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.entry["result"]
        return found


def examination_path(root: Path, trial_id: str) -> Path:
    """Where the trial's examination is, or would be."""
    return root / "evaluations" / f"{trial_id}.json"


def read_examination(path: Path, digest: str) -> Examination:
    """The examination of the record with this digest.

    Raises:
        RecordError: the file is damaged, of another version, or of another record; starts with its name.
    """
    name = f"{path.parent.name}/{path.name}"
    entry, checked = read_checksummed(path, name)
    if entry.get("version", EXAMINATION_VERSION) != EXAMINATION_VERSION:
        raise RecordError(f"{name} has version {entry['version']}; this wbcbench reads {EXAMINATION_VERSION}.")
    if entry.get("digest") != digest:
        raise RecordError(f"{name} is of another record of this trial (its digest differs). {AGAIN}")
    if not isinstance(entry.get("result"), dict):
        raise RecordError(f"{name} is damaged (it holds no results). {AGAIN}")
    return Examination(entry, checked)


def write_examination(path: Path, entry: dict[str, Any]) -> None:
    """Store what was found, with its checksum. Raises `WbcbenchError` when the file system refuses."""
    atomic_write_json(path, checksummed(entry))


__all__ = ["EXAMINATION_VERSION", "Examination", "examination_path", "read_examination", "write_examination"]
