"""Columns of other data sets: the networks of a board's rows on labelled cells that were not part of it.

Such cells decide nothing: neither ranks nor ties, nor which epoch or parameters are kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wbcbench.boards.board_statistics import SCALES
from wbcbench.boards.evaluated import Limits, Methods, complete, intervals
from wbcbench.boards.model import Estimate, ExternalScore, ExternalSet
from wbcbench.boards.options import Options
from wbcbench.boards.samples import enough
from wbcbench.boards.statistics import bootstrap, features, uncertainty
from wbcbench.records.evaluations import Evaluated
from wbcbench.records.external import External


@dataclass
class Externals:
    """The external sets of one board, and its rows' scores."""

    sets: list[ExternalSet] = field(default_factory=list)
    scores: dict[str, list[ExternalScore]] = field(default_factory=dict)
    """Method id -> one for each set on which all of its networks were evaluated."""
    notes: list[str] = field(default_factory=list)


def externals(methods: Methods, names: Mapping[str, str], options: Options, judged: bool) -> Externals:
    """Read the evaluations of these methods' records on other data sets.

    Args:
        methods: records of each method.
        names: of the rows, by method id.
        judged: whether intervals are computed.
    """
    found = Externals()
    roots = dict.fromkeys(r.root for own in methods.values() for f in own for r in f.records)
    ids = sorted({p.name for root in roots for p in (root / External.folder).glob("*/") if p.is_dir()})
    for cells in ids:
        whole, partly = complete(External, cells, methods, names, found.notes)
        if partly:
            found.notes.append(
                f"Evaluated on other cells in part and not shown: {', '.join(partly)}. "
                "`wbcbench evaluate` completes it."
            )
        if whole:
            _add(found, cells, {m: list(read.values()) for m, read in whole.items()}, methods, options, judged)
    titles = [s.name for s in found.sets]
    found.sets = [
        s.model_copy(update={"name": f"{s.name} {s.id[:6]}"}) if titles.count(s.name) > 1 else s
        for s in found.sets
    ]
    found.notes += [note for s in found.sets for note in _notes(s)]
    return found


def _add(
    found: Externals,
    cells: str,
    whole: Mapping[str, list[Evaluated[External]]],
    methods: Methods,
    options: Options,
    judged: bool,
) -> None:
    counts: dict[str, int] = {}
    for method, read in whole.items():
        score = _score(cells, read, methods[method][0].root, options, judged)
        if score is None:
            found.notes.append("Networks of one row were evaluated on no common cell of another data set.")
            continue
        found.scores.setdefault(method, []).append(score)
        counts[method] = score.cells
    if not counts:
        return
    documents = [one.document for read in whole.values() for one in read]
    first = documents[0]
    there = {c for one in next(iter(whole.values())) for c in one.labels.tolist()}
    found.sets.append(
        ExternalSet(
            id=cells, name=first.set.name, dataset=first.set.dataset, fingerprint=first.set.fingerprint,
            cells=max(counts.values()), fewest_cells=min(counts.values()),
            groups=None if first.groups is None else len(first.group_names),
            classes=tuple(name for i, name in enumerate(first.classes) if i in there),
            left_out=tuple(dict.fromkeys(d.left_out() for d in documents))[:3],
            unchecked=sum(bool(d.unchecked) for d in documents),
        )
    )  # fmt: skip


def _score(
    cells: str, read: Sequence[Evaluated[External]], root: Path, options: Options, judged: bool
) -> ExternalScore | None:
    """Of one row, on the cells that all of its networks were evaluated on; None if there are none."""
    shared = read[0].cells
    for one in read[1:]:
        shared = np.intersect1d(shared, one.cells)
    if not len(shared):
        return None
    places = [np.flatnonzero(np.isin(one.cells, shared)) for one in read]
    labels = read[0].labels[places[0]]
    names = read[0].document.group_names
    own = read[0].document.groups
    groups = None if own is None else np.array(names)[np.array(own)[places[0]]]
    clusters = (
        np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    ).astype(np.intp)
    present = np.unique(labels)
    tables = [
        features(one.probabilities[at], labels, clusters, ["macro_f1"])
        for one, at in zip(read, places, strict=True)
    ]
    f1 = [float(t.class_f1(t.columns.sum(0, keepdims=True))[0, present].mean()) for t in tables]
    count = int(clusters.max()) + 1

    def compute() -> Limits:
        resampled = bootstrap(tables, (), options.resamples, options.bootstrap_seed, per_class=True)
        u = uncertainty(np.array(f1), resampled[:, present].mean(1), count)
        return (u.interval(scale=SCALES["macro_f1"]),)

    low = high = None
    if judged and enough(count, groups is not None):
        question = [[str(one.document.digest), one.document.set.id, f] for one, f in zip(read, f1, strict=True)]
        ((low, high),) = intervals([question, shared.tolist()], compute, root, options)
    return ExternalScore(
        set=cells, n=len(read), cells=len(shared), groups=None if groups is None else count,
        macro_f1=Estimate(mean=statistics.fmean(f1), sd=statistics.stdev(f1) if len(f1) > 1 else None, low=low,
                          high=high),
    )  # fmt: skip


def _notes(s: ExternalSet) -> list[str]:
    many = f"{s.cells}" if s.cells == s.fewest_cells else f"{s.fewest_cells} to {s.cells}"
    groups = "" if s.groups is None else f" in {s.groups} groups"
    lines = [
        f"{s.name}: {many} cells{groups} of another data set ({s.dataset}, {s.fingerprint[:12]}), used for no "
        f"choice. Macro-F1 over the classes {', '.join(s.classes)}, mean ± sd over trained networks. Evaluated: "
        f"{'; '.join(s.left_out)}."
    ]
    if s.unchecked:
        lines.append(f"{s.name}: whether {s.unchecked} networks were trained on some of these cells is unknown.")
    return lines


__all__ = ["Externals", "externals"]
