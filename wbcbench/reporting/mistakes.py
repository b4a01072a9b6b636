"""The test cells that a network was most wrong about, as pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from wbcbench.contracts import Cells
from wbcbench.inference.pictures import tile
from wbcbench.records.store import Record

SHOWN = 24
_SIDE = 112


@dataclass(frozen=True)
class Mistake:
    """One cell."""

    name: str
    true: str
    predicted: str
    confidence: float
    """Of the predicted class."""
    given: float
    """The probability that the true class was given."""
    pictures: tuple[tuple[str, str], ...]
    """(modality, `data:` address of a PNG), of the modalities that the cell has."""


def worst(record: Record, side: str, count: int = SHOWN) -> list[int]:
    """Rows of the `test` or `val` predictions that are wrong, the least probable truth first."""
    p, labels = record.predictions[f"{side}_probabilities"], record.predictions[f"{side}_labels"]
    wrong = np.flatnonzero(p.argmax(1) != labels)
    truth = p[wrong, labels[wrong]]
    return [int(row) for row in wrong[np.lexsort((wrong, truth))][:count]]


def mistakes(record: Record, cells: Cells, side: str, count: int = SHOWN) -> list[Mistake]:
    """The worst mistakes with their images."""
    arrays, classes = record.predictions, record.result.key.classes
    columns = {m: i for i, m in enumerate(cells.images)}
    found = []
    for row in worst(record, side, count):
        cell, label = int(arrays[f"{side}_cells"][row]), int(arrays[f"{side}_labels"][row])
        p = arrays[f"{side}_probabilities"][row]
        here = [m for m in record.trial.reads if cells.present is None or cells.present[cell, columns[m]]]
        found.append(
            Mistake(
                name=cells.ids[cell] if cells.ids else f"cell {cell}",
                true=classes[label],
                predicted=classes[int(p.argmax())],
                confidence=float(p.max()),
                given=float(p[label]),
                pictures=tuple((m, _png(cells, m, cell)) for m in here),
            )
        )
    return found


def _png(cells: Cells, modality: str, cell: int) -> str:
    buffer = io.BytesIO()
    tile(np.asarray(cells.images[modality][cell]), _SIDE).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


__all__ = ["SHOWN", "Mistake", "mistakes", "worst"]
