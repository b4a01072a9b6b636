"""Where an executor gets its trials from, and their outcomes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wbcbench.errors import ExitCode, PluginError, UsageError
from wbcbench.records.store import Record, Store
from wbcbench.records.titles import add_titles, titles_of
from wbcbench.registry.loading import Observers
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.spec.request import Request


@dataclass
class Outcome:
    """The outcome of one planned trial."""

    planned: PlannedTrial
    status: Literal["done", "cached", "failed", "pruned"]
    """`pruned`: stopped early by a search; it has no record and is never ranked."""
    record: Record | None = None
    error: str = ""
    exception: Exception | None = None


def keep_titles(request: Request, outcomes: Iterable[Outcome]) -> None:
    """Store the request's titles for the boards of these trials: `title` is of the students' table only."""
    if not (request.title or request.dataset_title):
        return
    titles: dict[str, str] = {}
    for o in outcomes:
        if o.record is not None:
            board = request.title if o.planned.role == "student" else ""
            titles |= titles_of([o.record.result.key], request.dataset_title, board)
    add_titles(request.root, titles)


def all_cached(plan: Plan, store: Store) -> list[Outcome] | None:
    """The outcomes if every trial is already in the store, else None. Raises `RecordError` for a bad record."""
    if not all(store.has(p.trial.id) for p in plan.trials):
        return None
    store.tidy(*(p.trial.id for p in plan.trials))
    return [Outcome(p, "cached", store.load(p.trial.id)) for p in plan.trials]


def in_order(plan: Plan, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes in the plan's order, not in the order in which trials ended."""
    place = {p.trial.id: i for i, p in enumerate(plan.trials)}
    return sorted(outcomes, key=lambda o: place[o.planned.trial.id])


def lost_teacher(planned: PlannedTrial, outcomes: Sequence[Outcome]) -> str | None:
    """The id of the first trial that `planned` needs and that failed, if any."""
    failed = {o.planned.trial.id for o in outcomes if o.status == "failed"}
    return next((t for t in planned.needs if t in failed), None)


def exit_code(outcomes: list[Outcome]) -> ExitCode:
    """0, or 1 if some trials failed; if all failed because of one kind of user error, that error's code."""
    failures = [o for o in outcomes if o.status == "failed"]
    if not failures:
        return ExitCode.OK
    causes = [o.exception for o in failures if o.exception is not None]
    if len(failures) == len(outcomes) and causes:
        for kind in (PluginError, UsageError):
            if all(isinstance(c, kind) for c in causes):
                return kind.exit_code
    return ExitCode.SOME_FAILED


Wait = Literal["wait"]
"""Nothing can start now; call `next` again when a running trial has ended."""


class TrialSource(Protocol):
    """Trials in the order in which they may start. Called from a single thread of the driver."""

    total: int | None
    """How many trials there will be; None if not known yet."""

    def next(self) -> PlannedTrial | Wait | None:
        """The next trial to start, `"wait"` while all remaining trials need running ones, None at the end."""
        ...

    def epoch(self, planned: PlannedTrial, epoch: int, row: dict[str, Any]) -> bool:
        """Receives one epoch's row of history (`val_macro_f1`, ...). Returns True to stop (prune) the trial."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """Receives the outcome of a trial that `next` returned."""
        ...


class Display(Protocol):
    """Shows progress. All methods may do nothing."""

    def trial_started(self, planned: PlannedTrial) -> None: ...
    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None: ...
    def trial_ended(self, outcome: Outcome) -> None: ...


class Screen(Display, Protocol):
    """A display that also shows images being read, and sentences."""

    def decoding(self, done: int, total: int, what: str) -> None: ...
    def say(self, sentence: str) -> None: ...


Screens = Callable[..., AbstractContextManager[Screen]]
"""Makes a display for a number of trials; with `counted="proposals"`, for a search's proposals."""


class Executor(Protocol):
    """Runs a source's trials until there are no more."""

    def run(self, source: TrialSource, display: Display, observers: Observers) -> list[Outcome]:
        """Every trial's outcome, in the order in which they ended.

        A failed trial fails those that need it; the others continue.

        Raises:
            DataError: the cells cannot be read, which affects every trial.
        """
        ...


class PlanSource:
    """A plan's trials, each once, after those that it needs."""

    def __init__(self, trials: Sequence[PlannedTrial]) -> None:
        self.total: int | None = len(trials)
        self._left = list(trials)
        self._planned = {p.trial.id for p in trials}
        self._ended: set[str] = set()

    def next(self) -> PlannedTrial | Wait | None:
        """The first trial whose teachers have all ended."""
        for i, planned in enumerate(self._left):
            if self._planned.intersection(planned.needs) <= self._ended:
                return self._left.pop(i)
        return "wait" if self._left else None

    def epoch(self, planned: PlannedTrial, epoch: int, row: dict[str, Any]) -> bool:
        """A plan never stops a trial early."""
        return False

    def ended(self, outcome: Outcome) -> None:
        """Trials that need this one may start."""
        self._ended.add(outcome.planned.trial.id)
