"""Per-class scores, confusion and reliability of a row, from the records behind it."""

from __future__ import annotations

import statistics

import numpy as np

from wbcbench.boards.model import ClassScore, Details, ReliabilityBin, Row
from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import reliability
from wbcbench.records import verify as checks


def details(row: Row, classes: int) -> Details | None:
    """None where a record cannot be read any more."""
    results, bins = [], []
    try:
        for source in row.sources:
            assert source.path is not None
            results.append(checks.read_result(source.path))
            arrays = checks.read_predictions(source.path)
            bins.append(reliability(arrays["test_probabilities"], arrays["test_labels"]))
    except (RecordError, KeyError):
        return None
    per_class = {}
    for name in results[0].key.classes:
        scores = [r.per_class[name] for r in results]
        f1 = [s["f1"] for s in scores]
        per_class[name] = ClassScore(
            precision=statistics.fmean(s["precision"] for s in scores),
            recall=statistics.fmean(s["recall"] for s in scores),
            f1=statistics.fmean(f1),
            f1_sd=statistics.stdev(f1) if len(f1) > 1 else None,
            support=int(scores[0]["support"]),
        )
    confusion = np.sum([r.confusion for r in results], axis=0).tolist()
    counts = np.sum([b.counts for b in bins], axis=0)
    filled = np.maximum(counts, 1)
    confidence = np.sum([b.counts * b.confidence for b in bins], axis=0) / filled
    accuracy = np.sum([b.counts * b.accuracy for b in bins], axis=0) / filled
    return Details(
        per_class=per_class,
        confusion=tuple(tuple(line) for line in confusion),
        reliability=tuple(_bin(*values) for values in zip(counts, confidence, accuracy, strict=True)),
    )


def _bin(cells: int, confidence: float, accuracy: float) -> ReliabilityBin:
    return ReliabilityBin(
        cells=int(cells), confidence=round(float(confidence), 9), accuracy=round(float(accuracy), 9)
    )


__all__ = ["details"]
