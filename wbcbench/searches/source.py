"""A search as a source of trials: it makes proposals, reports epochs, prunes, and tells the study the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from wbcbench.errors import UsageError
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.scheduling.source import Outcome, Wait
from wbcbench.searches.optuna_study import Fate, Proposed, Study
from wbcbench.searches.space import Space
from wbcbench.spec import Trial
from wbcbench.spec.request import Request


def several_folds(scheme: str) -> UsageError:
    """The error for a search over several folds."""
    return UsageError(
        f"Expected one fold for a search, since cells that one fold validates on are tested by others "
        f"(split.scheme={scheme}). Search within one fold, as in --folds 0, where the winner is retrained too, or "
        "with split.scheme=stratified."
    )


def sealed(plan: Plan) -> Trial:
    """The sealed trial of a proposal's plan, which has one student. Raises `UsageError` for any other number."""
    students = [p.trial for p in plan.trials if p.role == "student"]
    if len({trial.fold for trial in students}) > 1:
        raise several_folds(students[0].protocol.split.scheme)
    if len(students) != 1:
        raise UsageError(
            f"Expected one student per proposal of a search, but '{students[0].method.fusion.name}' has "
            f"{len(students)}, one per modality. Choose one with --modalities."
        )
    return students[0].seal()


class SearchSource:
    """Makes proposals until there are `trials`, or `budget_seconds` of training are spent. See `source.Source`.

    Missing teachers of a proposal come before it, unsealed: they are the same trials for all proposals, and for
    runs outside the search.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        planner: Callable[[Request], Plan],
        trials: int,
        budget_seconds: float | None = None,
    ) -> None:
        self.study = study
        self.broken = ""
        """Why no more proposals can be made: a teacher failed."""
        self._space = space
        self._planner = planner
        self._trials = trials
        self._budget = budget_seconds
        self._left: list[PlannedTrial] = []
        self._pending: set[str] = set()
        """Trials that were queued and are not finished."""
        self._running: dict[str, list[Proposed]] = {}
        """Trial -> its proposals; the first one is trained, the others have the same parameters."""
        self._started: dict[str, float] = {}
        self._rows: dict[str, dict[int, dict[str, Any]]] = {}
        for asked in study.open:
            self._reopen(asked)
        left = max(0, trials - len(study.asked))
        self.total: int | None = None if budget_seconds is not None else left + len(self._left)

    def next(self) -> PlannedTrial | Wait | None:
        """A trial whose teachers are done; a new proposal if there is none and the budget allows it."""
        while not self.broken:
            for i, planned in enumerate(self._left):
                if not self._pending.intersection(planned.needs):
                    self._started[planned.trial.id] = time.monotonic()
                    return self._left.pop(i)
            if self._left:
                return "wait"
            if len(self.study.asked) >= self._trials:
                return None
            if self._budget is not None and self.study.seconds >= self._budget:
                return None
            self._propose()
        return None

    def epoch(self, planned: PlannedTrial, epoch: int, row: dict[str, Any]) -> bool:
        """Report a proposal's epoch. If the pruner decides to stop, mark the trial as pruned and return True."""
        trial_id = planned.trial.id
        running = self._running.get(trial_id)
        if running is None:
            return False
        rows = self._rows.setdefault(trial_id, {})
        rows[epoch] = row
        if not self.study.hear(running[0], epoch, row):
            return False
        seconds = time.monotonic() - self._started[trial_id]
        self.study.folder.prune(trial_id, epoch, [rows[e] for e in sorted(rows)], seconds)
        return True

    def ended(self, outcome: Outcome) -> None:
        """Tell the study the result according to the files, since a later start reads these, not the outcome."""
        trial_id = outcome.planned.trial.id
        self._pending.discard(trial_id)
        if trial_id not in self._running:
            if outcome.status == "failed":
                self.broken = f"Teacher {outcome.planned.trial.label} failed, which every proposal needs."
            return
        fate = None
        for asked in self._running.pop(trial_id):
            fate = self.study.fate(asked.proposal)
            if fate is None and not self.broken:
                fate = Fate("failed")
            if fate is not None:
                self.study.tell(asked, fate)
        self._rows.pop(trial_id, None)
        if fate is not None and fate.state == "pruned":
            # This study does not need its checkpoint any more.
            self.study.store.tidy(trial_id)

    def _propose(self) -> None:
        trial, values = self.study.ask()
        try:
            plan = self._planner(self._space.overlay(values))
            asked = self.study.keep(trial, sealed(plan).id)
        except UsageError as error:
            # Incompatible parameters count as a failed proposal.
            self.study.tell(self.study.keep(trial, error=str(error)), Fate("failed"))
            return
        if asked.proposal.trial_id in self._running:
            self._running[asked.proposal.trial_id].append(asked)
        elif (fate := self.study.fate(asked.proposal)) is not None:
            self.study.tell(asked, fate)
        else:
            self._queue(asked, plan)

    def _reopen(self, asked: Proposed) -> None:
        if asked.proposal.trial_id in self._running:
            self._running[asked.proposal.trial_id].append(asked)
            return
        values = self._space.suggest(_fixed(asked))
        plan = self._planner(self._space.overlay(values))
        if sealed(plan).id != asked.proposal.trial_id:
            raise UsageError(
                f"Expected trial {asked.proposal.trial_id} for a proposal of search '{self.study.folder.id}', but "
                f"its parameters now give {sealed(plan).id}: a component has changed. Start a new search with "
                "--name."
            )
        self._queue(asked, plan)

    def _queue(self, asked: Proposed, plan: Plan) -> None:
        student = sealed(plan)
        teachers = [p for p in plan.trials if p.role == "teacher"]
        for planned in [*teachers, PlannedTrial(student, "student")]:
            if planned.trial.id not in self._pending and not self.study.store.has(planned.trial.id):
                self._pending.add(planned.trial.id)
                self._left.append(planned)
        self._running[student.id] = [asked]


def _fixed(asked: Proposed) -> Any:
    from optuna.trial import FixedTrial

    return FixedTrial(asked.proposal.params, asked.proposal.number)
