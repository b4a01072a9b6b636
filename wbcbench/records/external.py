"""`evaluations/<set>/<trial>.json`: predictions of a finished network for labelled cells of another data set.

Such results are shown next to a board's own and never used for selection. A file holds all predictions, so that
its metrics are recomputed whenever it is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import score
from wbcbench.files import atomic_write_json
from wbcbench.records.evaluations import checksummed, read_form
from wbcbench.records.verify import TOLERANCE
from wbcbench.spec import ComponentSpec, digest

FOLDER = "evaluations"
VERSION: Literal[1] = 1
_AGAIN = "`wbcbench evaluate` evaluates it again."
UNFIT = (ValueError, OverflowError, binascii.Error, KeyError, TypeError)
"""Exceptions of arrays and metrics that do not agree."""


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class CellSet(_Form):
    """The cells that networks were evaluated on."""

    id: str = Field(pattern="^[0-9a-f]{16}$")
    """Of the data set, its parameters and its content."""
    name: str = Field(min_length=1, max_length=80)
    dataset: str
    fingerprint: str

    @classmethod
    def of(cls, dataset: ComponentSpec, fingerprint: str, name: str) -> CellSet:
        """The cells of a data set with this content, under a name for readers."""
        found = digest({"dataset": dataset.model_dump(mode="json"), "fingerprint": fingerprint})
        return cls(id=found, name=name, dataset=dataset.name, fingerprint=fingerprint)


class External(_Form):
    """One network on one set of cells."""

    version: Literal[1] = VERSION
    set: CellSet
    trial: str
    digest: str
    """Of the network's record."""
    method: str
    kd: str
    policies: list[str]
    seed: int
    fold: int | None
    image_size: int
    classes: list[str]
    """Of the network, in order."""
    accounts: list[dict[str, Any]]
    """Of everything in the data set, and last of its cells: how many were evaluated, and why others were not."""
    unchecked: str
    """Why it is unknown whether the network was trained on some of the cells; empty: it was not."""
    cells: list[int]
    """[N] numbers of the evaluated cells in the data set."""
    labels: list[int]
    groups: list[int] | None
    group_names: list[str]
    probabilities: str
    """[N, K] little-endian float32, in base64."""
    metrics: dict[str, float | None]
    """See `external_metrics`."""

    def left_out(self) -> str:
        """What became of the cells, as a sentence."""
        account = self.accounts[-1]
        parts = [f"{part['count']} {why}" for why, part in account["left_out"].items()]
        return f"{account['used']} of {account['seen']} cells" + (f" ({', '.join(parts)})" if parts else "")


@dataclass(frozen=True)
class Evaluated:
    """A document and its arrays."""

    document: External
    probabilities: NDArray[np.float32]
    """[N, K]."""
    labels: NDArray[np.int64]
    cells: NDArray[np.int64]
    groups: NDArray[np.int64] | None


def external_path(root: Path, cells: str, trial: str) -> Path:
    """The file of a trial's network on a set of cells; it need not exist."""
    return root / FOLDER / cells / f"{trial}.json"


def external_metrics(
    probabilities: ArrayLike, labels: ArrayLike, classes: tuple[str, ...]
) -> dict[str, float | None]:
    """As `score`, but macro-F1 is over the classes that have cells: other data sets lack some of them."""
    found = score(probabilities, labels, classes)
    f1 = [c["f1"] for c in found.per_class.values() if c["support"]]
    return {**found.summary, "macro_f1": float(np.mean(f1))}


def encoded(probabilities: NDArray[np.float32]) -> str:
    """Probabilities as text, see `External.probabilities`."""
    return base64.b64encode(np.ascontiguousarray(probabilities, dtype="<f4").tobytes()).decode()


def decoded(text: str, cells: int, classes: int) -> NDArray[np.float32]:
    """[cells, classes] probabilities from `encoded`. Raises one of `UNFIT` if there are more or fewer."""
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


def write_external(root: Path, document: External) -> Path:
    """Store a document with its checksum. Raises `WbcbenchError` if the file system refuses."""
    path = external_path(root, document.set.id, document.trial)
    atomic_write_json(path, checksummed(document.model_dump(mode="json")))
    return path


def read_external(path: Path, record: str | None = None) -> Evaluated:
    """Read a document, and check that its predictions give its metrics.

    Args:
        record: the digest of the record that it must be of; None: any.

    Raises:
        RecordError: it is damaged, of another version, of another record, or was moved.
    """
    name = f"{FOLDER}/{path.parent.name}/{path.name}"
    found = read_form(path, name, External, VERSION, _AGAIN)
    if (found.set.id, found.trial) != (path.parent.name, path.stem):
        raise RecordError(f"{name} is of trial {found.trial} on cells {found.set.id}: it was renamed. {_AGAIN}")
    if record is not None and found.digest != record:
        raise RecordError(f"{name} is of another record of this trial (its digest differs). {_AGAIN}")
    try:
        return _evaluated(found)
    except UNFIT as error:
        raise RecordError(f"{name} is damaged ({error}). {_AGAIN}") from error


def _evaluated(found: External) -> Evaluated:
    """Raises `ValueError` or the like unless arrays and metrics agree."""
    n = len(found.labels)
    p = decoded(found.probabilities, n, len(found.classes))
    labels, cells = (np.array(values, dtype=np.int64) for values in (found.labels, found.cells))
    groups = None if found.groups is None else np.array(found.groups, dtype=np.int64)
    if len(cells) != n or len(np.unique(cells)) != n or (groups is not None and len(groups) != n):
        raise ValueError("its arrays are of different cells")
    if groups is not None and (groups.min() < 0 or groups.max() >= len(found.group_names)):
        raise ValueError("it has groups without a name")
    if found.accounts[-1]["used"] != n:
        raise ValueError("its account is of other cells")
    check_metrics(found.metrics, external_metrics(p, labels, tuple(found.classes)))
    return Evaluated(found, p, labels, cells, groups)


__all__ = [
    "FOLDER",
    "UNFIT",
    "CellSet",
    "Evaluated",
    "External",
    "check_metrics",
    "decoded",
    "encoded",
    "external_metrics",
    "external_path",
    "read_external",
    "write_external",
]
