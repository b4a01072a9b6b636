"""What it says of a pack that some of its trials were trained again: reproduced, needs a look, refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from wbcbench.publishing.copies import named
from wbcbench.publishing.cross_checks import predictions_digest
from wbcbench.publishing.verdict import Judge, Problem
from wbcbench.records.store import Record

TOLERANCE = 0.02
"""Largest difference of a score that is not a reason to refuse."""
_CONFIDENCE = 0.95
_SAME_MACHINE = ("machine", "cpus", "packages", "cuda", "cudnn", "device")


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Method id -> its records, in their order."""
    methods: dict[str, list[Record]] = {}
    for record in records:
        methods.setdefault(record.result.method_id, []).append(record)
    return methods


class Run(NamedTuple):
    """A trial of the pack, trained again."""

    record: Record
    again: Record | None
    error: str = ""
    """Why there is none."""

    @property
    def name(self) -> str:
        return named(self.record)

    @property
    def same_machine(self) -> bool:
        """Whether both environments state the same kind of machine."""
        return self.again is not None and _environment(self.record) == _environment(self.again)

    @property
    def equal(self) -> bool:
        """Whether the predictions are equal bit by bit."""
        digests = {predictions_digest(r.predictions) for r in (self.record, self.again) if r is not None}
        return self.again is not None and len(digests) == 1


def _score(record: Record, by: str, side: str = "test") -> float:
    value = record.result.metrics[side][by]  # type: ignore[index]
    return math.nan if value is None else value


def allowed(
    seeds: Sequence[Record], others: Sequence[Record], by: str, largest: float, count: int
) -> tuple[float, str]:
    """The largest difference that counts as reproduced, and what it follows from.

    Args:
        seeds: of the method, in the pack.
        others: trusted records of other methods with the same key.
        by: the metric.
        largest: the limit, whatever follows.
        count: how many seeds were trained again, whose mean is compared.
    """
    scores = [_score(r, by) for r in seeds]
    limits = [(largest, "the largest allowed")]
    if len(scores) > 1:
        from scipy.stats import t

        # Of two means of `count` trainings each: another machine changes a training at most as another seed does.
        factor = float(t.ppf((1 + _CONFIDENCE) / 2, len(scores) - 1)) * math.sqrt(2 / count)
        limits.append((factor * stdev(scores), f"from the spread of {len(scores)} seeds"))
    rows = [fmean(_score(r, by) for r in own) for own in by_method(others).values()]
    gaps = [abs(fmean(scores) - row) for row in rows]
    limits += [(min(gaps), "the gap to the next row")] if gaps else []
    return min(limits)


def compare(
    runs: Sequence[Run],
    seeds: Sequence[Record],
    others: Sequence[Record],
    by: str,
    largest: float,
    judge: Judge,
) -> Iterator[Problem]:
    """The trainings of one method against its records."""
    for run in runs:
        if run.again is None:
            yield "refuse", f"{run.name} could not be trained again: {run.error}"
        elif run.equal:
            judge.notes.append(f"{run.name} was trained again with bitwise equal predictions.")
            judge.reproduced[run.record.trial.id] = run.record.result.digest
    differ = [run for run in runs if run.again is not None and not run.equal]
    if not differ:
        return
    every = {run.record.trial.id for run in runs if run.again} == {r.trial.id for r in seeds}
    # The mean of all seeds, or each one by itself.
    groups = [[run for run in runs if run.again]] if every else [[run] for run in differ]
    for group in groups:
        limit, because = allowed(seeds, others, by, largest, len(group))
        told, far = [], False
        for side in ("test", "val"):
            then = fmean(_score(run.record, by, side) for run in group)
            now = fmean(_score(run.again, by, side) for run in group if run.again)
            text = f"{side} {by} {then:.4f} in the pack, {now:.4f} here"
            told.append(text)
            if not abs(then - now) <= largest:
                far = True
                yield "refuse", f"{text}: the difference exceeds the tolerance of {largest:g}"
            elif side == "test" and abs(then - now) > limit:
                far = True
                yield "look", f"{text}: the difference exceeds the tolerance of {limit:.4f} ({because})"
        names = ", ".join(run.name for run in group)
        difference = f"{'; '.join(told)}. Tolerance {limit:.4f}: {because}"
        judge.notes.append(f"{names}: trained again with different predictions: {difference}.")
        enough = every and len(seeds) > 1
        alike = [run for run in group if run.again and not run.equal and run.same_machine]
        if alike:
            yield (
                "look",
                f"{alike[0].name} is not bit-identical, although its environment states this kind of machine",
            )
        elif not enough:
            yield (
                "look",
                f"{names}: predictions differ, and the pack states another kind of machine than this one: train "
                "all of several seeds again (--all-seeds), or one on such a machine",
            )
        elif not far:
            judge.reproduced |= {run.record.trial.id: run.record.result.digest for run in group}


def _environment(record: Record) -> dict[str, Any]:
    document = json.loads((record.path / "env.json").read_text(encoding="utf-8"))
    return {name: document.get(name) for name in _SAME_MACHINE}


__all__ = ["TOLERANCE", "Run", "allowed", "by_method", "compare"]
