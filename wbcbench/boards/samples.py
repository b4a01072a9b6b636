"""The test predictions of a board: read, checked, and for one set of cells with one set of groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.boards.entries import METRIC_ORDER, Found
from wbcbench.boards.statistics import MetricSums, effective_clusters, features
from wbcbench.errors import RecordError
from wbcbench.records import verify as checks
from wbcbench.records.verify import TOLERANCE

Array = NDArray[Any]


def enough(clusters: int, grouped: bool) -> bool:
    """Whether there is an interval or a test: two groups have one degree of freedom, and intervals from 0 to 1."""
    return clusters >= (3 if grouped else 2)


@dataclass
class Sample:
    """One record's test predictions."""

    found: Found
    probabilities: Array
    """[N, K] float32."""
    labels: Array
    cells: Array
    groups: Array | None
    folds: Array | None = None
    """[N] the fold that tested each cell; None: the split is one division."""

    @property
    def seed(self) -> int:
        """The record's seed."""
        return self.found.entry.seed

    @property
    def mark(self) -> bytes:
        """Equal for the same cells with the same labels in the same order."""
        return self.cells.tobytes() + b"|" + self.labels.tobytes()


@dataclass(frozen=True)
class Clusters:
    """The clusters of test cells that are resampled together."""

    of: NDArray[np.intp]
    """[N] cluster of each test cell, 0 .. G - 1."""
    grouped: bool
    """True: the data set's groups; False: each cell is a cluster."""
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """G."""
        return int(self.of.max()) + 1

    @property
    def effective(self) -> float:
        """See `effective_clusters`."""
        return effective_clusters(np.bincount(self.of)) if self.count > 1 else 1.0

    @property
    def enough(self) -> bool:
        """Whether there is an interval, see `enough`."""
        return enough(self.count, self.grouped)


def agreeing(
    methods: Mapping[str, Sequence[Found]], classes: int
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Predictions by method, and the records that are invalid or of other cells: trial id -> reason.

    The cells of the majority of records are used. Methods without a valid record are left out.
    """
    samples: dict[str, list[Sample]] = {}
    refused: dict[str, str] = {}
    for method, records in methods.items():
        for found in records:
            parts = []
            for record in found.records:
                try:
                    parts.append(load(record, classes))
                except RecordError as error:
                    refused[record.entry.trial_id] = str(error)
            if len(parts) == len(found.records):
                samples.setdefault(method, []).append(pool(parts, found) if found.folds else parts[0])
    marks = Counter(s.mark for own in samples.values() for s in own)
    usual = max(marks, key=lambda m: (marks[m], m), default=b"")
    for own in samples.values():
        for s in own:
            if s.mark != usual:
                refused[s.found.entry.trial_id] = (
                    f"Record {s.found.path}: predictions.npz is of other test cells, or other labels, "
                    "than those of the other records with this split. It is not counted."
                )
    kept = {m: [s for s in own if s.mark == usual] for m, own in samples.items()}
    return {m: own for m, own in kept.items() if own}, refused


def clusters(samples: Sequence[Sample]) -> Clusters:
    """The groups of the test cells according to most records, which may have none.

    In a tie between groups and none, groups are used: without them intervals would be too narrow.
    """
    votes = Counter(b"" if s.groups is None else s.groups.tobytes() for s in samples)
    usual = max(votes, key=lambda g: (votes[g], g))
    notes = []
    if len(votes) > 1:
        notes.append(
            "Records disagree about which donor a test cell is of, or whether that is known; the most frequent "
            "answer is used."
        )
    if usual:
        of = np.unique(np.frombuffer(usual, dtype=np.int64), return_inverse=True)[1].reshape(-1)
    else:
        # a cell that several folds tested is one cell
        of = np.unique(samples[0].cells, return_inverse=True)[1].reshape(-1)
    found = Clusters(np.asarray(of, dtype=np.intp), bool(usual))
    if not found.enough:
        few = "one group, so nothing can be said of noise" if found.count < 2 else "two groups"
        notes.append(f"All test cells are of {few}: too few groups (donors, slides, plates) for intervals.")
    elif found.grouped and found.count < 10:
        notes.append(f"Only {found.count} groups of test cells: intervals are wide and rough.")
    return replace(found, notes=tuple(notes))


def pool(samples: Sequence[Sample], found: Found) -> Sample:
    """The predictions of several folds as those of one record, in order of the folds."""
    groups = [s.groups for s in samples if s.groups is not None]
    return Sample(
        found,
        np.concatenate([s.probabilities for s in samples]),
        np.concatenate([s.labels for s in samples]),
        np.concatenate([s.cells for s in samples]),
        np.concatenate(groups) if len(groups) == len(samples) else None,
        np.repeat([s.found.entry.fold for s in samples], [len(s.labels) for s in samples]),
    )


def load(found: Found, classes: int) -> Sample:
    """Test predictions of a record, after checking that they give the record's metrics.

    Raises:
        RecordError: they are missing, malformed or of another record.
    """
    folder, entry = found.path, found.entry
    arrays = checks.read_predictions(folder)
    try:
        p, labels, cells = (arrays[f"test_{name}"] for name in ("probabilities", "labels", "cells"))
    except KeyError as error:
        raise checks.refuse(folder, "predictions.npz", f"has no array {error.args[0]}") from None
    n = len(labels)
    shapes_are_right = p.shape == (n, classes) and labels.shape == cells.shape == (n,) and n > 0
    types_are_right = p.dtype == np.float32 and labels.dtype == cells.dtype == np.int64
    if not shapes_are_right or not types_are_right or labels.min() < 0 or labels.max() >= classes:
        raise checks.refuse(folder, "predictions.npz", "has test arrays of another shape, type or range")
    if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise checks.refuse(folder, "predictions.npz", "has invalid test probabilities")
    groups = arrays.get("test_groups")
    if groups is not None and (groups.shape != labels.shape or groups.dtype != np.int64):
        raise checks.refuse(folder, "predictions.npz", "has test_groups that are not int64 [N]")
    whole: MetricSums = features(p, labels, np.zeros(n, dtype=np.intp))
    again = whole.metrics(whole.columns)
    for name, said in zip(METRIC_ORDER, entry.test, strict=True):
        if said is not None and not abs(said - again[name][0]) <= TOLERANCE:
            raise checks.refuse(
                folder, "result.json", f"has {name} = {said}, but its predictions give {again[name][0]:g}"
            )
    return Sample(found, p, labels, cells, groups)


__all__ = ["Clusters", "Sample", "agreeing", "clusters", "load", "pool"]
