"""Columns of other data sets: the networks of a board's rows on labelled cells that were not part of it.

Such cells decide nothing: neither ranks nor ties, nor which epoch or parameters are kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.boards.board_statistics import SCALES
from wbcbench.boards.entries import Found
from wbcbench.boards.model import Estimate, ExternalScore, ExternalSet
from wbcbench.boards.options import Options
from wbcbench.boards.samples import enough
from wbcbench.boards.statistics import bootstrap, features, uncertainty
from wbcbench.errors import RecordError, WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.records.external import FOLDER, Evaluated, external_path, read_external
from wbcbench.spec import digest

Methods = Mapping[str, Sequence[Found]]


@dataclass
class Externals:
    """The external sets of one board, and its rows' scores."""

    sets: list[ExternalSet] = field(default_factory=list)
    scores: dict[str, list[ExternalScore]] = field(default_factory=dict)
    """Method id -> one for each set on which all of its networks were evaluated."""
    notes: list[str] = field(default_factory=list)


class _Kept(BaseModel):
    """A cached interval."""

    model_config = ConfigDict(extra="forbid")

    low: float | None
    high: float | None


def externals(methods: Methods, names: Mapping[str, str], options: Options, judged: bool) -> Externals:
    """Read the evaluations of these methods' records on other data sets.

    Args:
        methods: records of each method.
        names: of the rows, by method id.
        judged: whether intervals are computed.
    """
    found = Externals()
    roots = dict.fromkeys(r.root for own in methods.values() for f in own for r in f.records)
    ids = sorted({p.name for root in roots for p in (root / FOLDER).glob("*/") if p.is_dir()})
    for cells in ids:
        whole: dict[str, list[Evaluated]] = {}
        partly = []
        for method, records in methods.items():
            every = [record for f in records for record in f.records]
            read = [one for record in every if (one := _read(record, cells, found.notes)) is not None]
            if len(read) == len(every):
                whole[method] = read
            elif read:
                partly.append(f"{names[method]} ({len(read)} of {len(every)})")
        if not whole and not partly:
            continue
        if partly:
            found.notes.append(
                f"Evaluated on other cells in part and not shown: {', '.join(sorted(partly))}. "
                "`wbcbench evaluate` completes it."
            )
        if whole:
            _add(found, cells, whole, methods, options, judged)
    titles = [s.name for s in found.sets]
    found.sets = [
        s.model_copy(update={"name": f"{s.name} {s.id[:6]}"}) if titles.count(s.name) > 1 else s
        for s in found.sets
    ]
    found.notes += [note for s in found.sets for note in _notes(s)]
    return found


def _read(record: Found, cells: str, notes: list[str]) -> Evaluated | None:
    path = external_path(record.root, cells, record.entry.trial_id)
    if not path.is_file():
        return None
    try:
        return read_external(path, record.entry.digest)
    except RecordError as error:
        notes.append(f"Refused: {error} Its row shows nothing of these cells.")
        return None


def _add(
    found: Externals,
    cells: str,
    whole: Mapping[str, list[Evaluated]],
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
    cells: str, read: Sequence[Evaluated], root: Path, options: Options, judged: bool
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
    groups = None if read[0].groups is None else np.array(names)[read[0].groups[places[0]]]
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
    low = high = None
    if judged and enough(count, groups is not None):
        question = [[str(one.document.digest), one.document.set.id, f] for one, f in zip(read, f1, strict=True)]
        key = digest([1, question, shared.tolist(), options.resamples, options.bootstrap_seed], length=32)
        path = root / "index" / "statistics" / f"external-{key}.json"
        kept = _load(path) if options.index else None
        if kept is None:
            resampled = bootstrap(tables, (), options.resamples, options.bootstrap_seed, per_class=True)
            u = uncertainty(np.array(f1), resampled[:, present].mean(1), count)
            limits = u.interval(scale=SCALES["macro_f1"])
            kept = _Kept(low=round(limits[0], 9), high=round(limits[1], 9))
            if options.index:
                with suppress(WbcbenchError):
                    atomic_write_bytes(path, kept.model_dump_json().encode())
        low, high = kept.low, kept.high
    return ExternalScore(
        set=cells, n=len(read), cells=len(shared), groups=None if groups is None else count,
        macro_f1=Estimate(mean=statistics.fmean(f1), sd=statistics.stdev(f1) if len(f1) > 1 else None, low=low,
                          high=high),
    )  # fmt: skip


def _load(path: Path) -> _Kept | None:
    try:
        return _Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


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
