"""Running searches and their winners with an executor. The only module here that needs torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from wbcbench.errors import TrialFailedError
from wbcbench.observers import Observers
from wbcbench.registry import Registry
from wbcbench.scheduling.inline import InlineExecutor, prepare
from wbcbench.scheduling.outcome import Outcome, all_cached
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.source import Display, Executor, PlanSource
from wbcbench.search.files import Winner
from wbcbench.search.search import Search
from wbcbench.search.study import Study
from wbcbench.search.winner import keep_winners, plan_winners
from wbcbench.spec.request import Request


class Screen(Display, Protocol):
    """A display that also shows images being read."""

    def decoding(self, done: int, total: int, what: str) -> None: ...


Screens = Callable[[int], AbstractContextManager[Screen]]
"""Number of trials -> a display for them."""


@dataclass
class Found:
    """What a search came to."""

    search: Search
    study: Study
    outcomes: list[Outcome]
    """Of proposals and of teachers that were missing, of this start only."""
    winners: list[Winner] = field(default_factory=list)
    retrained: list[Outcome] = field(default_factory=list)


Executors = Callable[[Plan, Request, Registry, Screen], Executor]
"""Gives the executor for trials like these, its data at hand; broken data is met there, before any training."""


def inline(plan: Plan, request: Request, registry: Registry, screen: Screen) -> Executor:
    """One trial after another in this process."""
    return InlineExecutor(prepare(plan, request, registry, screen.decoding))


def run_search(
    search: Search, screens: Screens, observers: Observers, retrain: bool = True, executor: Executors = inline
) -> Found:
    """Go on with a study until its budget is spent, then retrain its winners.

    Raises:
        TrialFailedError: a teacher failed, or no proposal finished.
    """
    study = search.study()
    source = search.source(study)
    outcomes: list[Outcome] = []
    if source.total != 0:
        with screens(source.total or search.settings.trials) as screen:
            runner = executor(search.base, search.request, search.registry, screen)
            outcomes = runner.run(source, screen, observers)
    if source.broken:
        errors = [o.error for o in outcomes if o.status == "failed"]
        raise TrialFailedError(f"{source.broken} The search stopped.\n{errors[0].rstrip() if errors else ''}")
    found = Found(search, study, outcomes)
    if retrain:
        winners, plan = plan_winners(search, study)
        cached = all_cached(plan, search.store)
        if cached is None:
            with screens(len(plan.trials)) as screen:
                runner = executor(plan, search.request, search.registry, screen)
                cached = runner.run(PlanSource(plan.trials), screen, observers)
        found.retrained = cached
        found.winners = keep_winners(search, study, winners, cached)
    return found
