"""Makes a row from the records of one method: means over seeds, cost, teachers, provenance, searches."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.boards.entries import METRIC_ORDER, Entry, Found
from wbcbench.boards.folds import mean_of_all
from wbcbench.boards.gather import Gathered
from wbcbench.boards.model import (
    METRIC_NAMES,
    ClassScore,
    Details,
    Estimate,
    MissingModalities,
    OutsideTeaching,
    Part,
    ReliabilityBin,
    Row,
    Search,
    Source,
    Status,
    Teaching,
    Timing,
)
from wbcbench.boards.names import label
from wbcbench.boards.standing import standing_of
from wbcbench.boards.values import Values
from wbcbench.errors import RecordError
from wbcbench.evaluation.levelling import levelled
from wbcbench.evaluation.metrics import reliability
from wbcbench.records import verify as checks
from wbcbench.records.evaluations import read_checksummed, read_examination


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Budget(_Lenient):
    study: str
    trials: int
    complete: int | None = None
    pruned: int | None = None
    failed: int | None = None
    train_seconds: float | None = None


class _Winner(_Lenient):
    trial_ids: tuple[str, ...]
    budget: _Budget


class _Winners(_Lenient):
    winners: tuple[_Winner, ...] = ()


def searches(roots: Iterable[Path]) -> tuple[dict[str, Search], list[str]]:
    """Trial id of every retrained winner -> the cost of its search (the highest, if several found it); and a
    sentence per file that cannot be trusted."""
    budgets: dict[str, Search] = {}
    notes: list[str] = []
    for root in roots:
        for path in sorted(root.glob("searches/*/winner.json")):
            name = path.relative_to(root).as_posix()
            try:
                winners = _parsed(_Winners, read_checksummed(path, name).content, name).winners
            except RecordError as error:
                notes.append(f"Refused: {error} What that search had spent is not shown.")
                continue
            for winner in winners:
                found = Search(**winner.budget.model_dump())
                for trial in winner.trial_ids:
                    known = budgets.get(trial)
                    if known is None or known.trials < found.trials:
                        budgets[trial] = found
    return budgets, notes


class Examinations:
    """Reads the full evaluations of the records of one report, and collects notes about them."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Trial id -> why the evaluation of its record is not shown."""
        self.unchecked: set[str] = set()
        """Trial ids whose evaluation was written before checksums were added."""

    def missing_modalities(self, records: Sequence[Found]) -> MissingModalities | None:
        """Mean over seeds of macro-F1 per subset of modalities; None unless every record was evaluated in full."""
        tables = []
        for record in (r for f in records for r in f.records):
            path = f"{record.root}/evaluations/{record.entry.trial_id}.json"
            if not os.path.isfile(path):  # the usual case, so creating a Path is avoided
                return None
            tables.append(self._table(Path(path), record))
        if any(table is None for table in tables):
            return None
        known = [table for table in tables if table is not None]
        subsets = set.intersection(*(set(t) for t in known)) if known else set()
        if not subsets:
            return None
        means = {
            s: sum(t[s] for t in known) / len(known) for s in sorted(subsets, key=lambda s: (s.count("+"), s))
        }
        worst = min(means, key=lambda s: (means[s], s))
        return MissingModalities(worst=tuple(worst.split("+")), worst_macro_f1=means[worst], subsets=means)

    def notes(self, trials: Iterable[str]) -> list[str]:
        """Notes for readers of a board of these trials."""
        mine = sorted(set(trials))
        notes = [
            f"Refused: {self.refused[t]} Its row shows nothing of missing modalities."
            for t in mine if t in self.refused
        ]  # fmt: skip
        old = sum(t in self.unchecked for t in mine)
        if old:
            notes.append(f"{old} examination{'s' * (old != 1)} in evaluations/ cannot be checked: made before "
                         "examinations had a checksum.")  # fmt: skip
        return notes

    def _table(self, path: Path, record: Found) -> dict[str, float] | None:
        """Subset -> macro-F1, if defined."""
        try:
            found = read_examination(path, record.entry.digest)
        except RecordError as error:
            self.refused[record.entry.trial_id] = str(error)
            return None
        if not found.checked:
            self.unchecked.add(record.entry.trial_id)
        metrics = {s: m.get("macro_f1") for s, m in found.result.get("subsets", {}).items()}
        return {s: value for s, value in metrics.items() if value is not None}


def _parsed(model: type[Any], content: dict[str, Any], name: str) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{name} is damaged ({where}: {first['msg']}).") from error


def details(row: Row, classes: int) -> Details | None:
    """The details of a row; None if a record cannot be read."""
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


BUILT_IN = frozenset({"wbcbench", "builtin", "built-in"})
"""Providers that need not be mentioned."""


_PLACES = tuple((name, METRIC_ORDER.index(name)) for name in METRIC_NAMES)


@dataclass(frozen=True)
class RowMaker:
    """Makes the rows of one report."""

    found: Gathered
    searches: Mapping[str, Search]
    examinations: Examinations = field(default_factory=Examinations)

    def row(
        self,
        records: Sequence[Found],
        status: Status,
        values: Values,
        missing: tuple[int, ...],
        folds: tuple[int, ...] = (),
    ) -> Row:
        """The row of one method; `records` sorted by seed, at least one; `folds`: those of the board."""
        entries = [f.entry for f in records]
        e = entries[0]
        key = self.found.keys[e.key]
        modalities = key.modalities
        return Row(
            rank=None,
            among_best=None,
            status=status,
            method=label(e, modalities),
            method_id=e.method_id,
            name=label(e, modalities),
            fusion=e.fusion,
            kd=e.kd,
            backbone=e.backbone,
            policies=e.policies,
            routing=e.routing,
            teacher_backbones=self._teacher_backbones(entries),
            modalities=modalities,
            seeds=tuple(x.seed for x in entries),
            missing_seeds=missing,
            folds=folds,
            metrics={m: estimate([values.test(f, m) for f in records]) for m in (*METRIC_NAMES, *values.more)},
            params=e.params,
            macs=e.macs,
            timing=_timing(entries),
            train_seconds=mean_of_all([x.train_seconds for x in entries]),
            levelled=levelled([r.entry.curve for f in records for r in f.records], key.judged_by),
            teaching=self._teaching(entries),
            outside=_outside(entries),
            pulls=_pulls([r.entry for f in records for r in f.records]),
            search=self._search(entries),
            missing_modalities=self.examinations.missing_modalities(records),
            standing=standing_of((r for f in records for r in f.records), self.found.standing),
            pseudo_multimodal=any(x.pseudo_multimodal for x in entries),
            parts=self._parts(entries),
            sources=tuple(_source(r, values) for f in records for r in f.records),
        )  # fmt: skip

    def _teachers(self, trials: Sequence[str]) -> dict[str, Entry | None]:
        """Every teacher, and its teachers recursively; None for one that is in no store."""
        seen: dict[str, Entry | None] = {}
        left = list(trials)
        while left:
            trial = left.pop(0)
            if trial in seen:
                continue
            there = self.found.trials.get(trial)
            seen[trial] = None if there is None else there.entry
            left += [] if there is None else there.entry.teachers
        return seen

    def _teaching(self, entries: Sequence[Entry]) -> Teaching | None:
        every = self._teachers([t for e in entries for t in e.teachers])
        if not every:
            return None
        one = list(self._teachers(entries[0].teachers).values())
        known = [e for e in one if e is not None]
        whole = len(known) == len(one)
        return Teaching(
            teachers=len(every),
            sets=len({frozenset(e.teachers) for e in entries}),
            train_seconds=_sum([None if e is None else e.train_seconds for e in every.values()]),
            macs=_whole(_sum([e.macs for e in known])) if whole else None,
            params=sum(e.params for e in known) if whole else None,
        )

    def _teacher_backbones(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        own = [self.found.trials.get(t) for t in entries[0].teachers]
        return tuple(dict.fromkeys("?" if f is None else f.entry.backbone for f in own))

    def _search(self, entries: Sequence[Entry]) -> Search | None:
        found = [self.searches[e.trial_id] for e in entries if e.trial_id in self.searches]
        return max(found, key=lambda s: s.trials, default=None)

    def _parts(self, entries: Sequence[Entry]) -> tuple[Part, ...]:
        used = dict.fromkeys(c for e in entries for c in self.found.components[e.components])
        return tuple(Part(**c.model_dump(), foreign=c.provider not in BUILT_IN) for c in used)


def _outside(entries: Sequence[Entry]) -> tuple[OutsideTeaching, ...]:
    found = []
    for same in zip(*(e.outside for e in entries), strict=True):
        seen = [t.seen for t in same]
        whole = all(t.test for t in same)
        found.append(
            OutsideTeaching(
                name=same[0].name,
                digest=same[0].digest,
                test_cells_seen=None if None in seen else max(s for s in seen if s is not None),
                metrics={m: mean_of_all([t.test[i] for t in same]) for m, i in _PLACES} if whole else {},
            )
        )
    return tuple(found)


def _pulls(entries: Sequence[Entry]) -> dict[str, tuple[float, float]]:
    """Geometric means of the first and the last gradient ratio of each distiller, to three digits."""
    found: dict[str, list[tuple[float, float]]] = {}
    for e in entries:
        for name, first, last in e.pulls:
            found.setdefault(name, []).append((first, last))
    return {n: (_geometric([a for a, _ in both]), _geometric([b for _, b in both])) for n, both in found.items()}


def _geometric(values: Sequence[float]) -> float:
    return float(f"{statistics.geometric_mean(values) if min(values) > 0 else 0.0:.3g}")


def _source(found: Found, values: Values) -> Source:
    e = found.entry
    return Source(
        trial_id=e.trial_id,
        seed=e.seed,
        fold=e.fold,
        digest=e.digest,
        checked=e.checked,
        metrics={m: values.test(found, m) for m in (*METRIC_NAMES, *values.more)},
        path=found.path,
    )


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and standard deviation (ddof 1). One undefined value makes the mean undefined."""
    defined = [v for v in values if v is not None]
    if len(defined) < len(values):
        return Estimate()
    # exact sums, as in `statistics`, but without its fractions, which would be too slow for a large store
    mean = math.fsum(defined) / len(defined)
    if len(defined) == 1:
        return Estimate(mean=mean)
    return Estimate(mean=mean, sd=math.sqrt(math.fsum((v - mean) ** 2 for v in defined) / (len(defined) - 1)))


def _timing(entries: Sequence[Entry]) -> Timing:
    devices = list(dict.fromkeys(e.device for e in entries))
    threads = {e.threads for e in entries}
    if len(devices) > 1 or len(threads) > 1:
        return Timing(device=" / ".join(devices))
    return Timing(
        device=devices[0],
        threads=threads.pop(),
        latency_ms=_median([e.latency_ms for e in entries]),
        throughput=_median([e.throughput for e in entries]),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


__all__ = ["BUILT_IN", "Examinations", "RowMaker", "details", "estimate", "searches"]
