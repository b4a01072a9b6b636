"""How far confidence is from accuracy: reliability bins and their expected calibration error.

Pure numpy. Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 2-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
"""Equal-width bins of the top label's probability; part of the metric's definition."""


@dataclass(frozen=True)
class Reliability:
    """One reliability diagram; every array is [bins]. An empty bin holds zeros."""

    edges: NDArray[np.float64]
    """[bins + 1], 0 .. 1; bin b is the half-open interval (edges[b], edges[b + 1]]."""
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Mean probability of the predicted class."""
    accuracy: NDArray[np.float64]
    """Share of cells whose predicted class is right."""


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Reliability:
    """Bin N cells by the probability of their predicted class.

    Args:
        probabilities: [N, K], rows summing to 1.
        labels: [N] int, 0 .. K - 1.
        bins: how many intervals of equal width.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    confidence = p.max(axis=1)
    hit = (p.argmax(axis=1) == np.asarray(labels)).astype(np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = bin_of(confidence, bins)
    counts = np.bincount(which, minlength=bins).astype(np.int64)
    filled = np.maximum(counts, 1)
    return Reliability(
        edges=edges,
        counts=counts,
        confidence=np.bincount(which, weights=confidence, minlength=bins) / filled,
        accuracy=np.bincount(which, weights=hit, minlength=bins) / filled,
    )


def bin_of(confidence: NDArray[np.float64], bins: int = BINS) -> NDArray[np.intp]:
    """The bin, 0 .. bins - 1, of each confidence [N]."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error of the top label, 0 .. 1: mean |accuracy - confidence| over cells' bins."""
    r = reliability(probabilities, labels, bins)
    return float(np.sum(r.counts * np.abs(r.accuracy - r.confidence)) / r.counts.sum())


__all__ = ["BINS", "Reliability", "bin_of", "ece", "reliability"]
