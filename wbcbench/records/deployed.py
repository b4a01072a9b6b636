"""`deployed/<kind>/<trial>.json`: what an exported file of a network predicts for test cells, its size and speed.

Like `records.external`, such results are shown next to a board's own and never used for selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wbcbench.evaluation.metrics import score
from wbcbench.records.evaluations import Evaluated, Predicted, path_of, read_predicted

KINDS = ("onnx", "onnx-int8", "onnx-dynamic", "onnx-fp16")
"""What is deployed: the ONNX file of `wbcbench export`, as it is or quantised."""


class Deployed(Predicted):
    """The exported file of one network on the test cells of its record."""

    folder: ClassVar[str] = "deployed"

    kind: Literal["onnx", "onnx-int8", "onnx-dynamic", "onnx-fp16"]
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
    trained: dict[str, float | None]
    """Metrics of the trained network on the same cells, from its record."""

    @property
    def place(self) -> str:
        return self.kind

    @classmethod
    def again(cls, place: str) -> str:
        return f"`wbcbench evaluate --deployed {place}` makes it again."

    def score(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
        return score(probabilities, labels, tuple(self.classes)).summary


def deployed_path(root: Path, kind: str, trial: str) -> Path:
    """The file of a trial's network, deployed in this way; it need not exist."""
    return path_of(Deployed, root, kind, trial)


def read_deployed(path: Path, record: str | None = None) -> Evaluated[Deployed]:
    """See `read_predicted`."""
    return read_predicted(Deployed, path, record)


__all__ = ["KINDS", "Deployed", "deployed_path", "read_deployed"]
