"""What became of planned trials. Imports no torch: a run with nothing left to do ends here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wbcbench.errors import ExitCode, PluginError, UsageError
from wbcbench.records.store import Record, Store
from wbcbench.scheduling.plan import Plan, PlannedTrial


@dataclass
class Outcome:
    """What became of one planned trial."""

    planned: PlannedTrial
    status: Literal["done", "cached", "failed", "pruned"]
    """`pruned`: stopped early by a search; it has no record and is never ranked."""
    record: Record | None = None
    error: str = ""
    exception: Exception | None = None


def all_cached(plan: Plan, store: Store) -> list[Outcome] | None:
    """The outcomes if every trial is in the store already, else None. Raises `RecordError` for a bad record."""
    if not all(store.has(p.trial.id) for p in plan.trials):
        return None
    store.tidy(*(p.trial.id for p in plan.trials))
    return [Outcome(p, "cached", store.load(p.trial.id)) for p in plan.trials]


def in_order(plan: Plan, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes in the plan's order, whichever trial ended first."""
    place = {p.trial.id: i for i, p in enumerate(plan.trials)}
    return sorted(outcomes, key=lambda o: place[o.planned.trial.id])


def lost_teacher(planned: PlannedTrial, outcomes: Sequence[Outcome]) -> str | None:
    """The id of the first trial that `planned` needs and that failed, if any."""
    failed = {o.planned.trial.id for o in outcomes if o.status == "failed"}
    return next((t for t in planned.needs if t in failed), None)


def exit_code(outcomes: list[Outcome]) -> ExitCode:
    """0, or 1 if some trials failed; if nothing but one kind of user error happened, that error's code."""
    failures = [o for o in outcomes if o.status == "failed"]
    if not failures:
        return ExitCode.OK
    causes = [o.exception for o in failures if o.exception is not None]
    if len(failures) == len(outcomes) and causes:
        for kind in (PluginError, UsageError):
            if all(isinstance(c, kind) for c in causes):
                return kind.exit_code
    return ExitCode.SOME_FAILED
