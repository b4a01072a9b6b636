"""The cluster bootstrap: clusters drawn with replacement, the same draws for every set of predictions.

Memory is bounded by working in blocks of resamples and batches of predictions; results do not depend on how many
predictions there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wbcbench.boards.statistics.features import COUNTED, Features

RESAMPLES = 10_000
SEED = 0
BLOCK = 200
"""Resamples at a time."""
BATCH_BYTES = 200_000_000
"""Largest matrix of features at a time."""


def draws(clusters: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[NDArray[np.float64]]:
    """Blocks [b <= BLOCK, G] of how often each of G clusters was drawn; every row sums to G."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, resamples, BLOCK):
        rows = min(BLOCK, resamples - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.reshape(-1), minlength=rows * clusters)
        yield counts.reshape(rows, clusters).astype(np.float64)


def bootstrap(
    tables: Sequence[Features],
    metrics: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    per_class: bool = False,
) -> NDArray[np.float64]:
    """Metrics of every table in every resample, [tables, metrics, resamples].

    Args:
        tables: of the same cells and clusters.
        metrics: names that `Features.metrics` has.
        resamples: how many.
        seed: of the draws; equal seeds give equal bytes.
        per_class: instead of `metrics`, F1 of each class: [tables, K, resamples].

    Raises:
        ValueError: tables of different cells.
    """
    if len({t.columns.shape for t in tables}) != 1:
        raise ValueError("Expected predictions for the same cells, but their numbers of cells or classes differ.")
    few = per_class or set(metrics) <= COUNTED
    clusters = len(tables[0].columns)
    width = tables[0].counts if few else tables[0].columns.shape[1]
    out = np.empty((len(tables), tables[0].classes if per_class else len(metrics), resamples))
    batch = max(1, BATCH_BYTES // (8 * clusters * width))
    for first in range(0, len(tables), batch):
        part = tables[first : first + batch]
        columns = np.concatenate([t.columns[:, :width] for t in part], axis=1)
        at = 0
        for counts in draws(clusters, resamples, seed):
            sums = counts @ columns
            upto = at + len(counts)
            for i, table in enumerate(part):
                own = sums[:, i * width : (i + 1) * width]
                if per_class:
                    out[first + i, :, at:upto] = table.class_f1(own).T
                else:
                    found = table.counted(own) if few else table.metrics(own)
                    for j, name in enumerate(metrics):
                        out[first + i, j, at:upto] = found[name]
            at = upto
    return out
