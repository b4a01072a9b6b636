"""Modalities computed from the images that a cell is given as, batch by batch, as training computed them."""

from __future__ import annotations

import numpy as np

from wbcbench.contracts import Preparation
from wbcbench.errors import DataError
from wbcbench.inference.source import Array, Kind, Order, Source


class DerivedCells:
    """Cells of another source, seen as the network's modalities. See `Source`."""

    def __init__(self, raw: Source, given: Order, wanted: Order) -> None:
        """`raw` has the images of `given`; `wanted` are those of the network."""
        preparation: Preparation = wanted.preparation
        assert preparation.derive is not None
        self._raw, self._derive, self._wanted = raw, preparation.derive, wanted
        self.where, self.names, self.labels, self.errors = raw.where, raw.names, raw.labels, raw.errors
        columns = [[given.names.index(name) for name in preparation.parts(m)] for m in wanted.names]
        self.present = np.stack([raw.present[:, c].all(1) for c in columns], axis=1)
        self.notes = raw.notes
        self.notes.append(f"{', '.join(wanted.names)} were computed from {', '.join(given.names)}.")

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        made = self._derive(self._raw.read(start, stop))
        here = self.present[start:stop]
        return {
            m: np.where(here[:, i, None, None, None], self._checked(m, made[m], kind), 0).astype(kind.dtype)
            for i, (m, kind) in enumerate(self._wanted.kinds.items())
        }

    def _checked(self, modality: str, images: Array, kind: Kind) -> Array:
        if images.dtype != kind.dtype or images.shape[1] != kind.channels:
            raise DataError(
                f"Expected {modality} with {kind.channels} channels of {np.dtype(kind.dtype)}, as in training, "
                f"but from {self.where} it becomes {images.shape[1]} of {images.dtype}. Convert the images first."
            )
        return images


__all__ = ["DerivedCells"]
