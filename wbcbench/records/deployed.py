"""`deployed/<kind>/<trial>.json`: what an exported file of a network predicts for test cells, its size and speed.

Like `records.external`, such results are shown next to a board's own and never used for selection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import score
from wbcbench.files import atomic_write_json
from wbcbench.records.evaluations import checksummed, read_form
from wbcbench.records.external import UNFIT, check_metrics, decoded

FOLDER = "deployed"
KINDS = ("onnx", "onnx-int8", "onnx-dynamic", "onnx-fp16")
"""What is deployed: the ONNX file of `wbcbench export`, as it is or quantised."""
VERSION: Literal[1] = 1


class Deployed(BaseModel):
    """The exported file of one network on the test cells of its record."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = VERSION
    kind: Literal["onnx", "onnx-int8", "onnx-dynamic", "onnx-fp16"]
    trial: str
    digest: str
    """Of the network's record."""
    method: str
    kd: str
    policies: list[str]
    seed: int
    fold: int | None
    classes: list[str]
    sha256: str
    """Of the file."""
    size: int = Field(ge=1)
    """Its bytes."""
    calibration: int = Field(ge=0)
    """Number of training cells that it was calibrated on."""
    packages: dict[str, str]
    """Releases of the packages that made and ran it."""
    device: str
    threads: int = Field(ge=1)
    latency_ms: float = Field(gt=0)
    """Of one cell."""
    batch_ms: float = Field(gt=0)
    """Of a batch of 64 cells."""
    cells: list[int]
    """[N] the record's test cells."""
    labels: list[int]
    probabilities: str
    """[N, K], see `external.encoded`."""
    metrics: dict[str, float | None]
    trained: dict[str, float | None]
    """Metrics of the trained network on the same cells, from its record."""


@dataclass(frozen=True)
class Measured:
    """A document and its arrays."""

    document: Deployed
    probabilities: NDArray[np.float32]
    """[N, K]."""
    labels: NDArray[np.int64]


def deployed_path(root: Path, kind: str, trial: str) -> Path:
    """The file of a trial's network, deployed in this way; it need not exist."""
    return root / FOLDER / kind / f"{trial}.json"


def write_deployed(root: Path, document: Deployed) -> Path:
    """Store a document with its checksum. Raises `WbcbenchError` if the file system refuses."""
    path = deployed_path(root, document.kind, document.trial)
    atomic_write_json(path, checksummed(document.model_dump(mode="json")))
    return path


def read_deployed(path: Path, record: str | None = None) -> Measured:
    """Read a document, and check that its predictions give its metrics.

    Args:
        record: the digest of the record that it must be of; None: any.

    Raises:
        RecordError: it is damaged, of another version, of another record, or was moved.
    """
    name = f"{FOLDER}/{path.parent.name}/{path.name}"
    again = f"`wbcbench evaluate --deployed {path.parent.name}` makes it again."
    found = read_form(path, name, Deployed, VERSION, again)
    if (found.kind, found.trial) != (path.parent.name, path.stem):
        raise RecordError(f"{name} is of trial {found.trial}, deployed as {found.kind}: it was renamed. {again}")
    if record is not None and found.digest != record:
        raise RecordError(f"{name} is of another record of this trial (its digest differs). {again}")
    try:
        labels = np.array(found.labels, dtype=np.int64)
        if len(found.cells) != len(labels) or len(set(found.cells)) != len(labels):
            raise ValueError("its arrays are of different cells")
        p = decoded(found.probabilities, len(labels), len(found.classes))
        check_metrics(found.metrics, score(p, labels, tuple(found.classes)).summary)
    except UNFIT as error:
        raise RecordError(f"{name} is damaged ({error}). {again}") from error
    return Measured(found, p, labels)


__all__ = ["FOLDER", "KINDS", "Deployed", "Measured", "deployed_path", "read_deployed", "write_deployed"]
