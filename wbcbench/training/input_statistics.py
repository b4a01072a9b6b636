"""Brightness and contrast of the training cells, and which new images are unlike them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbcbench.data.views import ResidentCells
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


MARGIN = 1.0
"""An image is an outlier if its brightness or contrast is outside the 1 % to 99 % range of training cells by more
than this many widths of that range."""


def unusual_images(
    images: Mapping[str, NDArray[Any]], present: NDArray[np.bool_], statistics: Mapping[str, InputStatistics]
) -> list[list[str]]:
    """What is unusual about the images of each of B cells: constant, much brighter or darker, much lower or higher
    contrast.

        Args:
            images: modality -> [B, C, S, S] as stored.
            present: [B, M] in the order of `statistics`.
            statistics: of the training cells.
    """
    found: list[list[str]] = [[] for _ in range(len(present))]
    for column, (m, s) in enumerate(statistics.items()):
        x = torch.from_numpy(images[m].astype(np.float32))
        mean, sd = (v.numpy() for v in brightness_and_contrast(x))
        flat = (sd == 0).all(1)
        dark, bright = outside(mean, s.brightness)
        dull, rich = outside(sd, s.contrast)
        kinds = (
            (flat, "constant"),
            (dark, "dark"),
            (bright, "bright"),
            (dull & ~flat, "flat"),
            (rich, "contrasty"),
        )
        for rows, kind in kinds:
            for row in np.flatnonzero(rows & present[:, column]):
                found[row].append(f"{m} {kind}")
    return found


def outside(values: NDArray[Any], ranges: tuple[tuple[float, float], ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which of [B, C] values have a channel far below, and far above, its range: [B] bool twice."""
    low, high = np.array(ranges, dtype=np.float64).T
    width = np.maximum(high - low, 1e-6) * MARGIN
    return (values < low - width).any(1), (values > high + width).any(1)


__all__ = ["MARGIN", "QUANTILES", "brightness_and_contrast", "outside", "statistics_of", "unusual_images"]
