"""Which images are unlike those that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench.inference.statistics import brightness_and_contrast
from wbcbench.records.schema import InputStatistics

MARGIN = 1.0
"""An image is far out if its brightness or contrast lies beyond the 1 % to 99 % range of training cells by more
than this many widths of that range."""


def unlike(
    images: Mapping[str, NDArray[Any]], present: NDArray[np.bool_], statistics: Mapping[str, InputStatistics]
) -> list[list[str]]:
    """For each of B cells what is odd about its images: constant, or far brighter, darker, flatter or richer.

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


__all__ = ["MARGIN", "outside", "unlike"]
