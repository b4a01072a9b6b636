"""Comparison of a pack's records with each other and with a trusted store."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.errors import RecordError
from wbcbench.publishing.archive import by_cell
from wbcbench.publishing.copies import SolvedOnce, copies, named
from wbcbench.publishing.verdict import Judge, Problem
from wbcbench.records import verify as checks
from wbcbench.records.schema import OutsideTeacher
from wbcbench.records.store import Record, Store
from wbcbench.spec import Trial


def predictions_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """64 hex digits over every array's name, type, shape and values, independent of the file's layout."""
    h = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        h.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        h.update(array.tobytes())
    return h.hexdigest()


JUMP = 3.0
"""A score this many standard deviations above the best reference method is reported."""
_METRIC = "macro_f1"


def check_among(
    records: Sequence[Record], reference: Store | None, judge: Judge, solved_once: SolvedOnce, where: str
) -> None:
    """The checks that need no reference; only missing teachers are looked up there."""
    judge.run("pack.teachers", where, lambda: _teachers(records, reference))
    judge.run("pack.labels", where, lambda: _labels(records, records, ""))
    judge.run("pack.duplicates", where, lambda: copies(records, (), solved_once, ""))


def check_against(
    records: Sequence[Record], reference: Store, judge: Judge, solved_once: SolvedOnce, where: str
) -> list[Record]:
    """Compare with the records of a trusted store that are of the same cells, and return these."""
    related, damaged = related_records(reference, records)
    theirs = " of the reference store"
    judge.notes += [f"A record of the reference store is invalid and was left out: {d}" for d in damaged]
    judge.run("reference.split", where, lambda: _split(records, related))
    judge.run("reference.labels", where, lambda: _labels(records, related, theirs))
    judge.run("reference.duplicates", where, lambda: copies(records, related, solved_once, theirs))
    judge.run("reference.same_trial", where, lambda: _same_trial(records, related))
    judge.run("reference.jump", where, lambda: _jump(records, related))
    return related


def related_records(store: Store, records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The store's records of the same cells, checked except for their metrics; and the errors of damaged ones."""
    fingerprints = {r.result.key.fingerprint for r in records}
    found: list[Record] = []
    damaged: list[str] = []
    base = store.root / "records"
    for folder in sorted(base.iterdir()) if base.is_dir() else []:
        if not (folder / "result.json").is_file():
            continue
        try:
            # Read the result first, to skip other data sets: a store may have many.
            result = checks.read_result(folder)
            # A search's sealed trials have no test predictions, so there is nothing to compare.
            if result.key.fingerprint in fingerprints and result.status != "sealed":
                found.append(store.load(folder.name))
        except RecordError as error:
            damaged.append(str(error))
    return found, damaged


_SAME = ("dataset", "fingerprint", "split", "augmentation", "selection", "metrics_version")
"""What a teacher's protocol shares with its student's. Modalities, image side and budget may differ."""


def unlike_teachers(student: Trial) -> Iterator[str]:
    """Teachers, recursively, that were trained on other cells than their student: they may know its test cells."""
    for teacher in student.method.teachers:
        mine, theirs = student.protocol, teacher.protocol
        differ = [n for n in _SAME if getattr(mine, n) != getattr(theirs, n)]
        differ += ["fold"] if teacher.fold != student.fold else []
        if differ:
            yield (
                f"{student.title} was taught by {teacher.title} ({teacher.id}), whose {', '.join(differ)} "
                f"{'is' if len(differ) == 1 else 'are'} not its student's: it may have been trained on test cells"
            )
        if teacher.sealed:
            yield f"{student.title} was taught by {teacher.title} ({teacher.id}), a search's sealed trial"
        yield from unlike_teachers(teacher)


def _teachers(records: Sequence[Record], reference: Store | None) -> Iterator[Problem]:
    here = {r.trial.id: r.result for r in records}
    for record in records:
        yield from (("refuse", f"{named(record)}: {fault}") for fault in unlike_teachers(record.trial))
        for teacher in record.trial.method.teachers:
            found = here.get(teacher.id)
            if found is None and reference is not None and reference.has(teacher.id):
                found = checks.read_result(reference.root / "records" / teacher.id)
            if found is None:
                yield "refuse", f"{named(record)} was taught by {teacher.label} ({teacher.id}), which is missing"
            elif (found.key.split, found.key.classes) != (record.result.key.split, record.result.key.classes):
                yield (
                    "refuse",
                    f"{named(record)} was taught by {teacher.label} ({teacher.id}), whose record has another "
                    "division of the cells, or other classes: it may have been trained on test cells",
                )
        for outside in record.result.outside:
            yield _outside(record, outside)


def _outside(record: Record, teacher: OutsideTeacher) -> Problem:
    told = f"{named(record)} was taught from outside by '{teacher.name}' (file {teacher.digest[:12]}), "
    seen = teacher.trained_on
    if seen is not None and (count := seen.get("test", 0)):
        return "refuse", f"{told}which was trained on {count} of the test cells, as its file states"
    stated = (
        "without a statement of its training cells" if seen is None else "which states that it saw no test cell"
    )
    return "look", f"{told}{stated}: nothing here can check how its answers were made"


def _split(records: Sequence[Record], related: Sequence[Record]) -> Iterator[Problem]:
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for r in related:
        known[r.result.key.fingerprint, r.trial.protocol.split.model_dump_json()].add(r.result.key.split)
    for r in records:
        key = r.result.key
        splits = known.get((key.fingerprint, r.trial.protocol.split.model_dump_json()))
        if splits is None:
            yield "look", f"{named(r)}: the reference store has no record of these cells with this kind of split"
        elif key.split not in splits:
            yield (
                "refuse",
                f"{named(r)} has split {key.split[:12]}, but for these cells it must be {min(splits)[:12]}",
            )


def _labels(records: Sequence[Record], others: Sequence[Record], whose: str) -> Iterator[Problem]:
    by_split: dict[tuple[str, str, int | None], list[Record]] = defaultdict(list)
    for other in others:
        by_split[other.result.key.fingerprint, other.result.key.split, other.trial.fold].append(other)
    for record in records:
        key = record.result.key
        there = by_split[key.fingerprint, key.split, record.trial.fold]
        peers = [o for o in there if o.trial.id != record.trial.id or whose]
        if not peers:
            continue
        # The records of a trusted reference agree with each other; within a pack all pairs are compared.
        for other in peers[:1] if whose else peers:
            if other.result.key.classes != key.classes:
                yield "refuse", f"{named(record)} has other classes than {named(other)}{whose}"
                break
            if problem := _disagreement(record, other):
                yield "refuse", f"{named(record)} and {named(other)}{whose}: {problem}"
                break


def _disagreement(a: Record, b: Record) -> str:
    for side, name in (("test", "test"), ("val", "validation")):
        mine, theirs = a.predictions, b.predictions
        p, q = by_cell(mine, side), by_cell(theirs, side)
        if not np.array_equal(mine[f"{side}_cells"][p], theirs[f"{side}_cells"][q]):
            return f"their {name} cells are not the same ({len(p)} and {len(q)} cells)"
        differ = int((mine[f"{side}_labels"][p] != theirs[f"{side}_labels"][q]).sum())
        if differ:
            return f"{differ} of {len(p)} {name} cells have another label"
    return _other_groups(a.predictions, b.predictions)


def _other_groups(mine: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> str:
    """How groups differ, if they do. They are part of a fingerprint, and all rows' intervals depend on them."""
    there = "test_groups" in mine, "test_groups" in theirs
    if there == (False, False):
        return ""
    if there != (True, True):
        return f"only the {'first' if there[0] else 'second'} has the groups (donor, slide) of test cells"
    p, q = by_cell(mine, "test"), by_cell(theirs, "test")
    differ = int((mine["test_groups"][p] != theirs["test_groups"][q]).sum())
    return f"{differ} of {len(p)} test cells are of another group" if differ else ""


def _same_trial(records: Sequence[Record], related: Sequence[Record]) -> Iterator[Problem]:
    known = {r.trial.id: r for r in related}
    for record in records:
        other = known.get(record.trial.id)
        if other is None or predictions_digest(record.predictions) == predictions_digest(other.predictions):
            continue
        mine, theirs = record.result.metrics["test"][_METRIC], other.result.metrics["test"][_METRIC]
        yield (
            "look",
            f"{named(record)} is in the reference store with other predictions: irreproducible "
            f"({_METRIC} {mine:.4f} here, {theirs:.4f} there)",
        )


def _jump(records: Sequence[Record], related: Sequence[Record]) -> Iterator[Problem]:
    for record in records:
        methods: dict[str, list[float]] = defaultdict(list)
        for other in related:
            value = other.result.metrics["test"][_METRIC]
            if other.result.key == record.result.key and other.trial.id != record.trial.id and value is not None:
                methods[other.result.method_id].append(value)
        if not methods:
            if record.trial.id not in {r.trial.id for r in related}:
                yield "look", f"{named(record)}: the reference store has no record of its comparison key"
            continue
        values = max(methods.values(), key=fmean)
        best, cells = fmean(values), len(record.predictions["test_labels"])
        # Between seeds, but at least the sampling error of this number of test cells.
        sd = max(stdev(values) if len(values) > 1 else 0.0, math.sqrt(best * (1 - best) / cells))
        score = record.result.metrics["test"][_METRIC]
        if score is not None and score > best + JUMP * sd:
            yield (
                "look",
                f"{named(record)} has {_METRIC} {score:.4f}, more than {JUMP:g} sd ({sd:.4f}) above the best "
                f"reference method of its key ({best:.4f}, {len(values)} seeds)",
            )


__all__ = [
    "JUMP",
    "check_against",
    "check_among",
    "predictions_digest",
    "related_records",
    "unlike_teachers",
]
