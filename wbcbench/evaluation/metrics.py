"""Metrics of the predictions for one set of cells, including calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wbcbench.spec import METRICS_VERSION

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


class Metric(NamedTuple):
    """The properties of a metric."""

    higher_is_better: bool
    range: tuple[float, float]
    doc: str


METRICS: dict[str, Metric] = {
    "accuracy": Metric(True, (0, 1), "share of cells whose most probable class is the true one"),
    "balanced_accuracy": Metric(True, (0, 1), "mean recall over the classes that have cells"),
    "macro_f1": Metric(True, (0, 1), "mean F1 over all classes of the task; 0 where F1 is undefined"),
    "auroc": Metric(True, (0, 1), "area under ROC, one class against the rest, mean over classes present"),
    "nll": Metric(False, (0, float("inf")), "mean negative log-likelihood of the true class, in nats"),
    "brier": Metric(False, (0, 2), "squared error of the probabilities, summed over classes, mean over cells"),
    "ece": Metric(False, (0, 1), "expected calibration error of the top label, 15 equal-width bins"),
}


@dataclass(frozen=True)
class Scores:
    """Metrics of one set of N cells with K classes."""

    summary: dict[str, float | None]
    """Exactly the keys of `METRICS`. None where undefined (AUROC when only one class has cells)."""
    per_class: dict[str, dict[str, float]]
    """Class -> precision, recall, f1, support; in the order of the task's classes."""
    confusion: list[list[int]]
    """[K][K] counts; row: true class, column: predicted class."""


def score(probabilities: ArrayLike, labels: ArrayLike, classes: tuple[str, ...]) -> Scores:
    """Score predictions.

    A class without cells in `labels` is left out of balanced accuracy and AUROC, but counts as
    F1 = 0 in macro-F1 (all classes of the task, zero_division=0), so that two boards with the same
    classes average over the same number of classes.

    Args:
        probabilities: [N, K], finite, non-negative, rows summing to 1 (within 1e-3).
        labels: [N] int, 0 .. K - 1.
        classes: K names.

    Raises:
        ValueError: when shapes or values are not as above.
    """
    p, y = _checked(probabilities, labels, len(classes))
    k = len(classes)
    confusion = np.bincount(y * k + p.argmax(axis=1), minlength=k * k).reshape(k, k)
    hits, support, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    present = np.flatnonzero(support)
    # Two classes are needed for a "rest".
    areas = [area_under_roc(p[:, c], y == c) for c in present] if len(present) > 1 else []
    likelihood = np.clip(p[np.arange(len(y)), y], np.finfo(np.float64).eps, 1)
    summary: dict[str, float | None] = {
        "accuracy": float(hits.sum() / len(y)),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1.mean()),
        "auroc": float(np.mean(areas)) if areas else None,
        "nll": float(-np.log(likelihood).mean()),
        "brier": float(np.mean(np.sum((p - np.eye(k)[y]) ** 2, axis=1))),
        "ece": ece(p, y),
    }
    columns = zip(classes, precision, recall, f1, support, strict=True)
    return Scores(
        summary=summary,
        per_class={
            name: {"precision": float(a), "recall": float(b), "f1": float(c), "support": float(n)}
            for name, a, b, c, n in columns
        },
        confusion=confusion.tolist(),
    )


SIDES = {"test": "test", "val": "validation", "train": "training"}
NAMED = 5


def ceiling_notes(counts: ArrayLike, classes: tuple[str, ...], side: str) -> list[str]:
    """A note on classes without cells, which lower the highest macro-F1 that is possible; empty if there are none.

    Args:
        counts: [K] cells of each class.
        side: train, val or test.
    """
    absent = [name for name, count in zip(classes, np.asarray(counts), strict=True) if not count]
    if not absent:
        return []
    shown = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
    there = len(classes) - len(absent)
    return [
        f"No {SIDES[side]} cells of {shown}: macro-F1 is the mean over all {len(classes)} classes, so on "
        f"{SIDES[side]} cells it cannot exceed {there / len(classes):.3f}. Balanced accuracy and AUROC are over "
        f"the {there} that have cells."
    ]


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive cell scores higher than a negative one; a tie counts half.

    Args:
        scores: [N], finite.
        positive: [N] bool, with cells on both sides.

    Source: Mann and Whitney, Ann. Math. Stat. 18:50 (1947); Hanley and McNeil, Radiology 143:29 (1982).
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share their mean rank
    ones = int(positive.sum())
    above = ranks[positive].sum() - ones * (ones + 1) / 2
    return float(above / (ones * (len(scores) - ones)))


def _ratio(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def evaluate(predictions: Mapping[str, NDArray[Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    """All metrics of a record, from its stored arrays.

    Args:
        predictions: `test_probabilities` [N, K], `test_labels` [N], the same for `val_`, and
            `test_route_<name>` [N, K] per route. A sealed trial has `val_` only.
        classes: K names.

    Returns:
        `metrics` {test, val}, `per_class` and `confusion` of test, `routes` {name: summary of test}. Without
        test predictions, all but `metrics` are empty.
    """
    val = score(predictions["val_probabilities"], predictions["val_labels"], classes)
    if "test_probabilities" not in predictions:
        return {"metrics": {"val": val.summary}, "per_class": {}, "confusion": [], "routes": {}}
    test = score(predictions["test_probabilities"], predictions["test_labels"], classes)
    prefix = "test_route_"
    routes = {
        name.removeprefix(prefix): score(array, predictions["test_labels"], classes).summary
        for name, array in predictions.items()
        if name.startswith(prefix)
    }
    return {
        "metrics": {"test": test.summary, "val": val.summary},
        "per_class": test.per_class,
        "confusion": test.confusion,
        "routes": routes,
    }


def _checked(probabilities: ArrayLike, labels: ArrayLike, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p = np.asarray(probabilities, dtype=np.float32).astype(np.float64)
    y = np.asarray(labels)
    if p.ndim != 2 or p.shape[1] != k or y.shape != p.shape[:1] or not len(y):
        raise ValueError(f"Expected probabilities [N >= 1, K={k}] and labels [N], but got "
                         f"{list(p.shape)} and {list(y.shape)}.")  # fmt: skip
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= k:
        raise ValueError(f"Expected integer labels 0..{k - 1}, but got {y.dtype} {y.min()}..{y.max()}.")
    if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("Expected probabilities that are finite, non-negative and sum to 1 in each row, "
                         f"but they range from {p.min():g} to {p.max():g}. Give softmax outputs.")  # fmt: skip
    return p / p.sum(axis=1, keepdims=True), y.astype(np.int64)


__all__ = [
    "BINS",
    "METRICS",
    "METRICS_VERSION",
    "Metric",
    "Reliability",
    "Scores",
    "bin_of",
    "ceiling_notes",
    "ece",
    "evaluate",
    "reliability",
    "score",
]
