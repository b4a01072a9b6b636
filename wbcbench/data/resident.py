"""Cells on the device: one integer tensor per modality, normalised as they are gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wbcbench.contracts import Cells

_CHUNK = 2048


@dataclass
class Modality:
    """One modality's images and how to normalise them."""

    images: Tensor
    """[N, C, S, S] uint8, or int16 holding a 16-bit image minus 32768."""
    mean: Tensor
    """[C], of raw pixel values over training cells that have the modality."""
    std: Tensor
    """[C]."""

    def gather(self, cells: Tensor) -> Tensor:
        """[B, C, S, S] float32, mean 0 and sd 1 over the training cells."""
        x = self.images[cells].to(torch.float32)
        offset = 32768.0 if self.images.dtype == torch.int16 else 0.0
        scale = 1.0 / self.std
        return torch.addcmul(
            ((offset - self.mean) * scale)[:, None, None], x, scale[:, None, None]
        )  # one pass: x / std + (offset - mean) / std


class ResidentCells:
    """What training reads: images, labels and availability, all on one device."""

    def __init__(self, cells: Cells, modalities: tuple[str, ...], train: np.ndarray, device: torch.device) -> None:
        """Copy the wanted modalities to `device`; `train` [n] are the cells to normalise by."""
        self.device = device
        self.classes = cells.classes
        self.labels = torch.as_tensor(cells.labels, dtype=torch.int64, device=device)
        columns = {m: i for i, m in enumerate(cells.images)}
        self.incomplete = frozenset(cells.incomplete)
        """Modalities that some cells of the set lack."""
        self._present: dict[str, Tensor] | None = None
        if cells.present is not None:
            self._present = {
                m: torch.as_tensor(np.ascontiguousarray(cells.present[:, columns[m]]), device=device)
                for m in modalities
            }
        self.modalities: dict[str, Modality] = {}
        for m in modalities:
            have = train if cells.present is None else train[cells.present[train, columns[m]]]
            mean, std = moments(cells.images[m], have)
            self.modalities[m] = Modality(
                images=_to_tensor(cells.images[m]).to(device),
                mean=torch.tensor(mean, dtype=torch.float32, device=device),
                std=torch.tensor(std, dtype=torch.float32, device=device),
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        return int(next(iter(self.modalities.values())).images.shape[-1])

    def channels(self, modalities: tuple[str, ...]) -> dict[str, int]:
        return {m: int(self.modalities[m].images.shape[1]) for m in modalities}

    def present(self, cells: Tensor, modalities: tuple[str, ...]) -> Tensor | None:
        """[B, M] bool, or None where no cell of the set lacks anything."""
        if self._present is None:
            return None
        return torch.stack([self._present[m][cells] for m in modalities], 1)

    def images(self, cells: Tensor, modality: str) -> Tensor:
        """[B, C, S, S] normalised and unaugmented; absent images are zero (the training mean)."""
        return self.mask_absent(self.modalities[modality].gather(cells), cells, modality)

    def mask_absent(self, x: Tensor, cells: Tensor, modality: str) -> Tensor:
        """`x` with the rows of cells that lack the modality set to zero."""
        if self._present is None:
            return x
        return x * self._present[modality][cells][:, None, None, None]


def moments(images: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd [C] of raw pixel values over the given cells, in float64; a flat channel gets sd 1."""
    channels = images.shape[1]
    if len(cells) == 0:
        return np.zeros(channels), np.ones(channels)
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(cells), _CHUNK):
        x = images[cells[start : start + _CHUNK]].astype(np.float64)
        total += x.sum((0, 2, 3))
        square += (x * x).sum((0, 2, 3))
        count += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return mean, np.where(std > 1e-6, std, 1.0)


def _to_tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:
        # torch has no arithmetic on uint16; shifting into int16 keeps every value and the memory.
        return torch.from_numpy((np.asarray(array).astype(np.int32) - 32768).astype(np.int16))
    return torch.from_numpy(np.array(array, dtype=np.uint8))
