"""Running searches and their winners with an executor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from wbcbench.errors import TrialFailedError
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling import executors
from wbcbench.scheduling.outcome import Outcome, all_cached
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.source import PlanSource, Screens, Source
from wbcbench.search.files import Winner
from wbcbench.search.search import Search
from wbcbench.search.study import Study
from wbcbench.search.winner import keep_winners, plan_winners

PATIENCE = 5.0
"""Seconds to wait for another process that has the study: one that was just ended is about to let go."""


@dataclass
class Found:
    """What a search came to."""

    search: Search
    study: Study
    outcomes: list[Outcome]
    """Of proposals and of teachers that were missing, of this start only."""
    winners: list[Winner] = field(default_factory=list)
    retrained: list[Outcome] = field(default_factory=list)


def run_search(
    search: Search,
    screens: Screens,
    observers: Observers,
    plugins: PluginOptions | None = None,
    retrain: bool = True,
) -> Found:
    """Go on with a study until its budget is spent, then retrain its winners.

    Which executor runs the trials is the request's to say: see `executors.choose`. With several at once, a
    proposal is made from what has ended by then, so that the same seed may propose otherwise than inline.

    Raises:
        TrialFailedError: a teacher failed, or no proposal finished.
        WbcbenchError: another process searches the same study in the same store: each would count the other's
            proposals as its own.
    """

    def execute(plan: Plan, source: Source, trials: int, times: int = 1) -> list[Outcome]:
        with screens(trials) as screen:
            options = plugins or PluginOptions()
            return executors.execute(
                search.request, plan, search.registry, options, source, screen, observers, times
            )

    with search.store.lock(f"search-{search.folder.id}", timeout=PATIENCE, what=f"search {search.folder.id}"):
        return _search(search, execute, retrain)


def _search(search: Search, execute: Callable[..., list[Outcome]], retrain: bool) -> Found:
    study = search.study()
    source = search.source(study)
    outcomes: list[Outcome] = []
    if source.total != 0:
        left = max(1, search.settings.trials - len(study.asked))
        times = math.ceil(left / len(search.spec.methods))
        outcomes = execute(search.base, source, source.total or search.settings.trials, times)
    if source.broken:
        errors = [o.error for o in outcomes if o.status == "failed"]
        raise TrialFailedError(f"{source.broken} The search stopped.\n{errors[0].rstrip() if errors else ''}")
    found = Found(search, study, outcomes)
    if retrain:
        winners, plan = plan_winners(search, study)
        found.retrained = all_cached(plan, search.store) or execute(
            plan, PlanSource(plan.trials), len(plan.trials)
        )
        found.winners = keep_winners(search, study, winners, found.retrained)
    return found
