"""How bright and how rich in contrast training cells were: what a new image is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.data.resident import ResidentCells
from wbcbench.records.schema import InputStatistics

QUANTILES = (0.01, 0.99)
_CHUNK = 2048


def statistics_of(cells: ResidentCells, train: Tensor, modalities: tuple[str, ...]) -> dict[str, InputStatistics]:
    """Modality -> statistics over the training cells (ids [n]) that have it; see `InputStatistics`."""
    found = {}
    for m in modalities:
        images = cells.modalities[m].images
        present = cells.present(train, (m,))
        have = train if present is None else train[present[:, 0]]
        wide = images.dtype == torch.int16  # a 16-bit image is held minus 32768, see `data.resident`
        parts = [brightness_and_contrast(images[ids]) for ids in torch.split(have, _CHUNK)]
        means, sds = (torch.cat(p) for p in zip(*parts, strict=True)) if parts else (torch.zeros(1, 1),) * 2
        found[m] = InputStatistics(
            bits=16 if wide else 8,
            mean=tuple(cells.modalities[m].mean.tolist()),
            std=tuple(cells.modalities[m].std.tolist()),
            brightness=_ranges(means + (32768.0 if wide else 0.0)),
            contrast=_ranges(sds),
        )
    return found


def brightness_and_contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, S, S] pixels -> mean and standard deviation of each image's channels, [B, C] twice, float32."""
    flat = images.to(torch.float32).flatten(2)
    return flat.mean(2), flat.std(2, correction=0)


def _ranges(values: Tensor) -> tuple[tuple[float, float], ...]:
    """[n, C] -> per channel the low and the high quantile, to six digits."""
    ordered = values.sort(0).values.cpu()
    rows = [round(q * (len(ordered) - 1)) for q in QUANTILES]
    low, high = ([float(f"{v:.6g}") for v in ordered[row].tolist()] for row in rows)
    return tuple(zip(low, high, strict=True))


__all__ = ["QUANTILES", "brightness_and_contrast", "statistics_of"]
