"""`evaluations/<trial>.json`, the results of `--evaluate full`, and other documents with a checksum."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.errors import RecordError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.files import DOCUMENTS, atomic_write_json
from wbcbench.spec import digest

CHECKSUM = "checksum"


class Document(NamedTuple):
    """The content of a file."""

    content: dict[str, Any]
    checked: bool
    """Whether it had a checksum, which older files lack."""


def checksummed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its checksum (64 hex digits), as it is written to the file."""
    body = {name: value for name, value in content.items() if name != CHECKSUM}
    return {**body, CHECKSUM: digest(body, length=64)}


def read_checksummed(path: Path, name: str = "") -> Document:
    """Read a file with the content of `checksummed`, or an older one without a checksum.

    Args:
        path: of the file.
        name: its name in errors, which must not be a path if they go to other machines; default: the path.

    Raises:
        RecordError: it cannot be read, is not a JSON object, or does not match its checksum.
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
        reason = "it does not match its checksum" if isinstance(content, dict) else "it is not a JSON object"
        raise RecordError(f"{name} is damaged ({reason}).")
    checked = bool(content.pop(CHECKSUM, ""))
    return Document(content, checked)


F = TypeVar("F", bound=BaseModel)


def read_form(path: Path, name: str, form: type[F], version: int, again: str) -> F:
    """Read a file that always had a checksum.

    Args:
        path, name: as for `read_checksummed`.
        form: of its content.
        version: that its content must have.
        again: how it is made again; the end of error messages.

    Raises:
        RecordError: it is damaged, or of another version.
    """
    content, checked = read_checksummed(path, name)
    if content.get("version") != version:
        raise RecordError(f"{name} has version {content.get('version')}; this wbcbench reads {version}. {again}")
    try:
        found = form.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{name} is damaged ({where}: {first['msg']}). {again}") from error
    if not checked:
        raise RecordError(f"{name} is damaged (it has no checksum). {again}")
    return found


AGAIN = "`wbcbench run ... --evaluate full` evaluates it again."


class _Form(BaseModel):
    """The fields that are read from such a file; others are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Worst(_Form):
    modalities: list[str]
    macro_f1: float


class _Cost(_Form):
    params: int
    macs: int | None


class _Findings(_Form):
    missing: str = ""
    clean: dict[str, float | None] = {}
    subsets: dict[str, dict[str, float | None]] = {}
    subset_cells: dict[str, int] = {}
    subset_cost: dict[str, _Cost] = {}
    worst_subset: _Worst | None = None
    shapley: dict[str, float] = {}
    permutation_drop: dict[str, float] = {}
    corruptions: dict[str, dict[str, list[float]]] = {}
    retained: dict[str, dict[str, float]] = {}


class _Entry(_Form):
    method: str = ""
    kd: str = ""
    policies: list[str] = []
    seed: int = 0
    result: _Findings


@dataclass(frozen=True)
class Examination:
    """One file of `evaluations/`."""

    entry: dict[str, Any]
    """Everything in it; `result` holds the findings."""
    checked: bool
    """Whether it had a checksum, which older files lack."""

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.entry["result"]
        return found

    @property
    def whole(self) -> bool:
        """Whether it has everything that `wbcbench run` shows."""
        found = self.result
        return (
            {"method", "kd", "seed"} <= set(self.entry)
            and found.get("clean", {}).get("macro_f1") is not None
            and bool(found.get("permutation_drop"))
            and any(found.get("retained", {}).values())
        )


def examination_path(root: Path, trial_id: str) -> Path:
    """The path of the trial's evaluation; the file need not exist."""
    return root / "evaluations" / f"{trial_id}.json"


def read_examination(path: Path, digest: str) -> Examination:
    """The evaluation of the record with this digest.

    Raises:
        RecordError: the file is damaged, of another version, or of another record. The message starts with its
            name.
    """
    name = f"{path.parent.name}/{path.name}"
    entry, checked = read_checksummed(path, name)
    if entry.get("version", EXAMINATION_VERSION) != EXAMINATION_VERSION:
        raise RecordError(
            f"{name} has version {entry['version']}; this wbcbench reads {EXAMINATION_VERSION}. {AGAIN}"
        )
    if entry.get("digest") != digest:
        raise RecordError(f"{name} is of another record of this trial (its digest differs). {AGAIN}")
    try:
        _Entry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{name} is damaged ({where}: {first['msg']}). {AGAIN}") from error
    return Examination(entry, checked)


def write_examination(path: Path, entry: dict[str, Any]) -> None:
    """Store the findings with their checksum. Raises `WbcbenchError` if the file system refuses."""
    atomic_write_json(path, checksummed(entry))


__all__ = [
    "CHECKSUM",
    "Document",
    "Examination",
    "checksummed",
    "examination_path",
    "read_checksummed",
    "read_examination",
    "read_form",
    "write_examination",
]
