"""The cluster bootstrap: sums over cells from which every metric follows, and their resamples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from wbcbench.contracts.metric import FromCounts, MeanOverCells, Metric
from wbcbench.evaluation.metrics import BINS, bin_of
from wbcbench.evaluation.scorers import called, class_values, mean_defined, readable

Floats = NDArray[np.float64]
COUNTED = frozenset({"accuracy", "balanced_accuracy", "macro_f1"})
"""Metrics of predicted classes, which need no probabilities."""


@dataclass(frozen=True)
class MetricSums:
    """One set of predictions, prepared for resampling."""

    columns: Floats
    """[G, 3 K + BINS + 4] sums over each cluster's cells: cells, true, predicted and hit per class, NLL, Brier,
    calibration gap per bin, first-order effect on AUROC."""
    classes: int
    auroc: float
    """Metrics of the original cells; NaN if undefined."""

    def metrics(self, sums: Floats) -> dict[str, Floats]:
        """Every metric of R resamples from their sums [R, C], each [R].

        The same definitions as `wbcbench.evaluation.metrics`. AUROC is a first-order approximation (DeLong et al.
        1988), since every resample would have to be sorted again; all others are exact.
        """
        n = sums[:, 0]
        nll, brier, gaps, effect = np.split(sums[:, self.counts :], [1, 2, 2 + BINS], axis=1)
        return self.counted(sums) | {
            "auroc": self.auroc + effect[:, 0] / n,
            "nll": nll[:, 0] / n,
            "brier": brier[:, 0] / n,
            "ece": np.abs(gaps).sum(1) / n,
        }

    @property
    def counts(self) -> int:
        """The number of leading columns that count cells; `COUNTED` and `class_f1` need no others."""
        return 1 + 3 * self.classes

    def counted(self, sums: Floats) -> dict[str, Floats]:
        """The metrics in `COUNTED`, each [R], from sums [R, >= counts]."""
        k = self.classes
        true, hit = sums[:, 1 : 1 + k], sums[:, 1 + 2 * k : 1 + 3 * k]
        seen = true > 0
        recall = np.divide(hit, true, out=np.zeros_like(hit), where=seen)
        return {
            "accuracy": hit.sum(1) / sums[:, 0],
            "balanced_accuracy": recall.sum(1) / seen.sum(1),
            "macro_f1": self.class_f1(sums).mean(1),
        }

    def class_f1(self, sums: Floats) -> Floats:
        """F1 of each class [R, K] from sums [R, C]; 0 if undefined."""
        k = self.classes
        true, predicted, hit = (sums[:, 1 + i * k : 1 + (i + 1) * k] for i in range(3))
        both = true + predicted
        return np.divide(2 * hit, both, out=np.zeros_like(hit), where=both > 0)


def features(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    clusters: NDArray[np.intp],
    metrics: Sequence[str] | None = None,
) -> MetricSums:
    """Sums per cluster.

    Args:
        probabilities: [N, K], rows sum to 1.
        labels: [N], 0 .. K - 1.
        clusters: [N], 0 .. G - 1, each at least once; cells of one cluster are resampled together.
        metrics: that will be resampled, default all; if they are in `COUNTED`, only the columns that these need.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    p = p / p.sum(1, keepdims=True)
    n, k = p.shape
    cells = np.arange(n)
    predicted = p.argmax(1)
    confidence = p[cells, predicted]
    right = predicted == labels
    one = np.eye(k)
    few = metrics is not None and set(metrics) <= COUNTED
    columns = np.zeros((n, 1 + 3 * k if few else 3 * k + BINS + 4))
    columns[:, 0] = 1
    columns[cells, 1 + labels] = 1
    columns[cells, 1 + k + predicted] = 1
    columns[cells[right], 1 + 2 * k + predicted[right]] = 1
    if few:
        return MetricSums(_by_cluster(columns, clusters), k, float("nan"))
    # the same clipping as in scikit-learn's log loss
    eps = np.finfo(np.float64).eps
    columns[:, 3 * k + 1] = -np.log(np.clip(p[cells, labels], eps, 1 - eps))
    columns[:, 3 * k + 2] = ((p - one[labels]) ** 2).sum(1)
    columns[cells, 3 * k + 3 + bin_of(confidence)] = right - confidence
    auroc, columns[:, -1] = _auroc(p, labels)
    return MetricSums(_by_cluster(columns, clusters), k, auroc)


def _by_cluster(columns: Floats, clusters: NDArray[np.intp]) -> Floats:
    count = int(clusters.max()) + 1
    if count == len(clusters):
        return columns
    order = np.argsort(clusters, kind="stable")
    return np.add.reduceat(columns[order], np.searchsorted(clusters[order], np.arange(count)), axis=0)


def effective_clusters(sizes: ArrayLike) -> float:
    """How many clusters of equal size would tell as much about the noise between clusters as these.

    The cluster bootstrap's variance is a quadratic form of the clusters' effects, A = M' diag(w^2) M with shares w
    and M = I - 1 w'. With effects of equal variance it has tr(A)^2 / tr(A^2) degrees of freedom (Satterthwaite),
    which for equal sizes is their number - 1. Source: Bell and McCaffrey, Survey Methodology 28 (2002).
    """
    w = np.asarray(sizes, dtype=np.float64)
    w = w / w.sum()
    s2, s3, s4, s5 = (float((w**k).sum()) for k in (2, 3, 4, 5))
    trace = s2 - 2 * s3 + s2**2
    square = s4 - 4 * s5 + 4 * s2 * s4 + 2 * s3**2 - 4 * s2**2 * s3 + s2**4
    return 1 + trace**2 / square


def _auroc(p: Floats, labels: NDArray[np.integer]) -> tuple[float, Floats]:
    """Mean one-against-rest AUROC over the classes that have cells, and each cell's first-order effect on it [N].

    Effects have mean 0; their mean over a resample is its shift of AUROC. They are DeLong's structural components,
    scaled to cells.
    """
    n = len(labels)
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan"), np.full(n, float("nan"))
    areas, effects = [], np.zeros(n)
    for k in present:
        positive = labels == k
        scores = p[:, k]
        ranks = rankdata(scores)
        a, b = positive.sum(), n - positive.sum()
        above = (ranks[positive] - rankdata(scores[positive])) / b
        below = 1 - (ranks[~positive] - rankdata(scores[~positive])) / a
        area = above.mean()
        effects[positive] += (above - area) * n / a
        effects[~positive] += (below - area) * n / b
        areas.append(area)
    return float(np.mean(areas)), effects / len(present)


RESAMPLES = 10_000
SEED = 0
BLOCK = 200
"""Resamples at a time."""
BATCH_BYTES = 200_000_000
"""Maximum size of a matrix of features."""


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
    tables: Sequence[MetricSums],
    metrics: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    per_class: bool = False,
) -> NDArray[np.float64]:
    """Metrics of every table in every resample, [tables, metrics, resamples].

    Args:
        tables: features of the same cells and clusters.
        metrics: names that `Features.metrics` has.
        resamples: number of resamples.
        seed: of the draws; equal seeds give equal bytes.
        per_class: instead of `metrics`, F1 of each class: [tables, K, resamples].

    Raises:
        ValueError: tables of different cells.
    """
    if len({t.columns.shape for t in tables}) != 1:
        raise ValueError("Expected predictions for the same cells, but the numbers of cells or classes differ.")
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


LOOPED = 1000
"""Most resamples of a metric that each of them calls."""


def bootstrap_of(
    metric: Metric,
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    clusters: NDArray[np.intp],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Floats:
    """A metric [resamples] of the same resamples as `bootstrap`.

    A metric that is neither a mean over cells nor made from counts is computed for the first `LOOPED` resamples,
    which are then repeated: variances and pairs stay what they are.

    Args:
        metric: for the board's classes.
        probabilities: [N, K].
        labels: [N].
        clusters: [N], 0 .. G - 1, each at least once.
        resamples: number of resamples.
        seed: of the draws.
    """
    given = readable(metric, probabilities)
    return called(metric.name, lambda: _resampled(metric, given, labels, clusters, resamples, seed))


def _resampled(
    metric: Metric,
    given: NDArray[Any],
    labels: NDArray[np.integer],
    clusters: NDArray[np.intp],
    resamples: int,
    seed: int,
) -> Floats:
    count = int(clusters.max()) + 1
    if isinstance(metric, MeanOverCells):
        values = np.asarray(metric.of_cells(given, labels), dtype=np.float64)
        sums = np.stack([np.bincount(clusters, values, count), np.bincount(clusters, minlength=count)], 1)
        drawn = np.concatenate([c @ sums for c in draws(count, resamples, seed)])
        return np.asarray(drawn[:, 0] / drawn[:, 1])
    if isinstance(metric, FromCounts):
        k = len(metric.classes)
        pairs, which = np.unique(labels * k + given, return_inverse=True)
        table = np.zeros((count, len(pairs)))
        np.add.at(table, (clusters, which.reshape(-1)), 1)
        parts = []
        for c in draws(count, resamples, seed):
            matrices = np.zeros((len(c), k * k))
            matrices[:, pairs] = c @ table
            found = np.asarray(metric.of_counts(matrices.reshape(-1, k, k)), dtype=np.float64)
            parts.append(mean_defined(found) if metric.per_class else found)
        return np.concatenate(parts)
    order = np.argsort(clusters, kind="stable")
    looped: list[float] = []
    for c in draws(count, min(resamples, LOOPED), seed):
        for times in c.astype(np.int64):
            rows = np.repeat(order, times[clusters[order]])
            looped.append(float(mean_defined(class_values(metric, given[rows], labels[rows]))))
    return np.resize(np.array(looped), resamples)
