"""Cells to be classified, wherever they lie: named, perhaps labelled, and read a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wbcbench.errors import DataError
from wbcbench.inference.rebuild import Rebuilt
from wbcbench.records.schema import InputStatistics

Array = NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What a network reads."""

    statistics: Mapping[str, InputStatistics]
    side: int
    classes: tuple[str, ...]
    dataset: str
    params: Mapping[str, Any]
    """Of the data set it was trained on: which column, array or channel was which modality."""

    @classmethod
    def of(cls, rebuilt: Rebuilt) -> Wanted:
        protocol = rebuilt.record.trial.protocol
        return cls(
            statistics=rebuilt.statistics, side=rebuilt.task.image_size, classes=rebuilt.task.classes,
            dataset=protocol.dataset.name, params=protocol.dataset.params,
        )  # fmt: skip

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.statistics)

    def channels(self, modality: str) -> int:
        return len(self.statistics[modality].mean)

    def dtype(self, modality: str) -> type[np.unsignedinteger[Any]]:
        return np.uint16 if self.statistics[modality].bits == 16 else np.uint8

    def blank(self, count: int) -> dict[str, Array]:
        """Modality -> [count, C, S, S] of zeros."""
        return {
            m: np.zeros((count, self.channels(m), self.side, self.side), self.dtype(m)) for m in self.modalities
        }


class Source(Protocol):
    """N cells in one place."""

    where: str
    names: tuple[str, ...]
    """[N]."""
    labels: tuple[str, ...] | None
    """[N] as they are written, empty where unknown; None where nothing says."""
    present: NDArray[np.bool_]
    """[N, M] in the order of the wanted modalities."""
    notes: list[str]
    """What a reader must know: images that were resized, columns that were left aside."""

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Modality -> [stop - start, C, S, S] as wanted; zero where absent. Raises `DataError`."""
        ...


def open_cells(path: Path, wanted: Wanted) -> Source:
    """Cells of a folder, a manifest (.csv), an .npz, or one image file.

    Raises:
        DataError: nothing there, or nothing that the network could read.
    """
    from wbcbench.inference.arrays import NpzCells
    from wbcbench.inference.files import manifest_cells, single_cell, tree_cells

    if path.is_dir():
        manifest = path / "manifest.csv"
        found: Source = manifest_cells(manifest, wanted) if manifest.is_file() else tree_cells(path, wanted)
    elif not path.exists():
        raise DataError(f"Expected a folder, a manifest (.csv), an .npz or an image, but {path} is not there.")
    elif path.suffix.lower() == ".npz":
        found = NpzCells(path, wanted)
    elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
        found = manifest_cells(path, wanted)
    else:
        found = single_cell(path, wanted)
    empty = ~found.present.any(1)
    if empty.any():
        first = found.names[int(np.argmax(empty))]
        raise DataError(
            f"Expected an image of {', '.join(wanted.modalities)} for every cell of {path}, but "
            f"{int(empty.sum())} have none (first: {first}). Name columns, folders or arrays after the modalities."
        )
    return found


__all__ = ["Array", "Source", "Wanted", "open_cells"]
