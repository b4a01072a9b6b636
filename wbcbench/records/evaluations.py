"""`evaluations/<trial>.json`, the results of `--evaluate full`, and other documents with a checksum.

Two kinds of them hold predictions of a finished network: `External` and `Deployed`. What they share is here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.errors import RecordError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.files import DOCUMENTS, atomic_write_json
from wbcbench.records.verify import TOLERANCE
from wbcbench.spec import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


class Predicted(BaseModel):
    """Predictions of a finished network for labelled cells: `<folder>/<place>/<trial>.json`.

    A file holds all of them, so that its metrics are recomputed whenever it is read.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    folder: ClassVar[str]
    """Of the store, that holds such files."""

    version: Literal[1] = 1
    trial: str
    digest: str
    """Of the network's record."""
    method: str
    kd: str
    policies: list[str]
    seed: int
    fold: int | None
    classes: list[str]
    """Of the network, in order."""
    cells: list[int]
    """[N] numbers of the cells in their data set."""
    labels: list[int]
    probabilities: str
    """[N, K] little-endian float32, in base64."""
    metrics: dict[str, float | None]
    """See `score`."""

    @property
    def place(self) -> str:
        """Name of the folder in `folder`: what of the network was evaluated, or on what."""
        raise NotImplementedError

    @classmethod
    def again(cls, place: str) -> str:
        """How a file of this folder is made again; the end of error messages."""
        raise NotImplementedError

    def score(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
        """The metrics of these predictions."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises one of `UNFIT` if its own fields do not agree with its number of cells."""


P = TypeVar("P", bound=Predicted)


@dataclass(frozen=True)
class Evaluated(Generic[P]):
    """A document and its arrays."""

    document: P
    probabilities: NDArray[np.float32]
    """[N, K]."""
    labels: NDArray[np.int64]
    cells: NDArray[np.int64]


UNFIT = (ValueError, OverflowError, binascii.Error, KeyError, TypeError)
"""Exceptions of arrays and metrics that do not agree."""


def path_of(form: type[Predicted], root: Path, place: str, trial: str) -> Path:
    """The file of a trial's network; it need not exist."""
    return root / form.folder / place / f"{trial}.json"


def write_predicted(root: Path, document: Predicted) -> Path:
    """Store a document with its checksum. Raises `WbcbenchError` if the file system refuses."""
    path = path_of(type(document), root, document.place, document.trial)
    atomic_write_json(path, checksummed(document.model_dump(mode="json")))
    return path


def read_predicted(form: type[P], path: Path, record: str | None = None) -> Evaluated[P]:
    """Read a document, and check that its predictions give its metrics.

    Args:
        form: of its content.
        path: of the file.
        record: the digest of the record that it must be of; None: any.

    Raises:
        RecordError: it is damaged, of another version, of another record, or was moved.
    """
    import numpy as np

    place = path.parent.name
    name, again = f"{form.folder}/{place}/{path.name}", form.again(place)
    found = _read_form(path, name, form, again)
    if (found.place, found.trial) != (place, path.stem):
        raise RecordError(f"{name} is of trial {found.trial}, evaluated as {found.place}: it was renamed. {again}")
    if record is not None and found.digest != record:
        raise RecordError(f"{name} is of another record of this trial (its digest differs). {again}")
    try:
        labels, cells = (np.array(values, dtype=np.int64) for values in (found.labels, found.cells))
        if len(cells) != len(labels) or len(np.unique(cells)) != len(labels):
            raise ValueError("its arrays are of different cells")
        found.check()
        p = decoded(found.probabilities, len(labels), len(found.classes))
        check_metrics(found.metrics, found.score(p, labels))
    except UNFIT as error:
        raise RecordError(f"{name} is damaged ({error}). {again}") from error
    return Evaluated(found, p, labels, cells)


def encoded(probabilities: NDArray[np.float32]) -> str:
    """Probabilities as text, see `Predicted.probabilities`."""
    import numpy as np

    return base64.b64encode(np.ascontiguousarray(probabilities, dtype="<f4").tobytes()).decode()


def decoded(text: str, cells: int, classes: int) -> NDArray[np.float32]:
    """[cells, classes] probabilities from `encoded`. Raises one of `UNFIT` if there are more or fewer."""
    import numpy as np

    data = base64.b64decode(text, validate=True)
    p = np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)
    if p.size != cells * classes:
        raise ValueError(f"it has {p.size} probabilities for {cells} cells and {classes} classes")
    return p.reshape(cells, classes)


def check_metrics(stated: Mapping[str, float | None], again: Mapping[str, float | None]) -> None:
    """Raise `ValueError` if the stated metrics are not those that were computed again."""
    for metric, value in again.items():
        said = stated.get(metric)
        if (said is None) != (value is None) or (said is not None and abs(said - (value or 0)) > TOLERANCE):
            raise ValueError(f"it says {metric} = {said}, but its predictions give {value}")


def _read_form(path: Path, name: str, form: type[P], again: str) -> P:
    """Read a file that always had a checksum. Raises `RecordError` if it is damaged, or of another version."""
    content, checked = read_checksummed(path, name)
    version = form.model_fields["version"].default
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
    "Evaluated",
    "Examination",
    "Predicted",
    "check_metrics",
    "checksummed",
    "decoded",
    "encoded",
    "examination_path",
    "path_of",
    "read_checksummed",
    "read_examination",
    "read_predicted",
    "write_examination",
    "write_predicted",
]
