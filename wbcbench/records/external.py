"""`evaluations/<set>/<trial>.json`: predictions of a finished network for labelled cells of another data set.

Such results are shown next to a board's own and never used for selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from wbcbench.evaluation.metrics import score
from wbcbench.records.evaluations import Evaluated, Predicted, path_of, read_predicted
from wbcbench.spec import ComponentSpec, digest


class CellSet(BaseModel):
    """The cells that networks were evaluated on."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

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


class External(Predicted):
    """One network on one set of cells."""

    folder: ClassVar[str] = "evaluations"

    set: CellSet
    image_size: int
    accounts: list[dict[str, Any]]
    """Of everything in the data set, and last of its cells: how many were evaluated, and why others were not."""
    unchecked: str
    """Why it is unknown whether the network was trained on some of the cells; empty: it was not."""
    groups: list[int] | None
    group_names: list[str]

    @property
    def place(self) -> str:
        return self.set.id

    @classmethod
    def again(cls, place: str) -> str:
        return "`wbcbench evaluate` evaluates it again."

    def score(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
        return external_metrics(probabilities, labels, tuple(self.classes))

    def check(self) -> None:
        if self.groups is not None and len(self.groups) != len(self.labels):
            raise ValueError("its arrays are of different cells")
        if self.groups and not (0 <= min(self.groups) <= max(self.groups) < len(self.group_names)):
            raise ValueError("it has groups without a name")
        if self.accounts[-1]["used"] != len(self.labels):
            raise ValueError("its account is of other cells")

    def left_out(self) -> str:
        """What became of the cells, as a sentence."""
        account = self.accounts[-1]
        parts = [f"{part['count']} {why}" for why, part in account["left_out"].items()]
        return f"{account['used']} of {account['seen']} cells" + (f" ({', '.join(parts)})" if parts else "")


def external_path(root: Path, cells: str, trial: str) -> Path:
    """The file of a trial's network on a set of cells; it need not exist."""
    return path_of(External, root, cells, trial)


def external_metrics(
    probabilities: ArrayLike, labels: ArrayLike, classes: tuple[str, ...]
) -> dict[str, float | None]:
    """As `score`, but macro-F1 is over the classes that have cells: other data sets lack some of them."""
    found = score(probabilities, labels, classes)
    f1 = [c["f1"] for c in found.per_class.values() if c["support"]]
    return {**found.summary, "macro_f1": float(np.mean(f1))}


def read_external(path: Path, record: str | None = None) -> Evaluated[External]:
    """See `read_predicted`."""
    return read_predicted(External, path, record)


__all__ = ["CellSet", "External", "external_metrics", "external_path", "read_external"]
