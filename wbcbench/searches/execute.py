"""Running searches with an executor, then retraining the winners with fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, TrialState

from wbcbench.errors import TrialFailedError
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling import executors
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.scheduling.source import Outcome, PlanSource, Screens, Source, all_cached
from wbcbench.searches.files import Proposal, SearchBudget, Winner
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.search import Search


def ranking(study: Study) -> list[FrozenTrial]:
    """Finished proposals that may win, best first, each trial once.

    One objective: all finished ones by value. Several: the Pareto set, by the first objective.
    """
    trials = [t for t in study.optuna.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if study.spec.objective.several:
        trials = [t for t in study.optuna.best_trials if t.state == TrialState.COMPLETE]
    sign = -1 if study.spec.objective.directions[0] == "maximize" else 1
    unique: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda t: (sign * t.values[0], t.number)):
        unique.setdefault(proposal_of(study, trial).trial_id, trial)
    return list(unique.values())


def proposal_of(study: Study, trial: FrozenTrial) -> Proposal:
    """The stored proposal behind one of the study's trials."""
    return study.asked[trial.number].proposal


def fresh_seeds(wanted: Sequence[int], used: int) -> tuple[int, ...]:
    """The wanted seeds, moved up together if the search itself has trained with one of them."""
    shift = used + 1 - min(wanted) if used in wanted else 0
    return tuple(s + shift for s in dict.fromkeys(wanted))


def plan_winners(search: Search, study: Study) -> tuple[list[tuple[FrozenTrial, list[str]]], Plan]:
    """The winners with the ids of the trials that retrain them, and one plan of those with their teachers.

    Raises:
        TrialFailedError: no proposal has finished.
    """
    chosen = ranking(study)[: search.settings.winners]
    if not chosen:
        counts = study.counts()
        raise TrialFailedError(
            f"Search '{search.folder.id}' has no finished proposal to choose from: {counts['pruned']} pruned, "
            f"{counts['failed']} failed. `failures/` in the store says why; the space may be too wide."
        )
    seeds = fresh_seeds(search.settings.winner_seeds, search.request_seed)
    ordered: dict[str, PlannedTrial] = {}
    winners = []
    for trial in chosen:
        request = search.space(FixedTrial(trial.params, trial.number)).model_copy(update={"seeds": seeds})
        plan = search.plan(request)
        for planned in plan.trials:
            ordered.setdefault(planned.trial.id, planned)
        winners.append((trial, [p.trial.id for p in plan.trials if p.role == "student"]))
    return winners, replace(search.base, trials=list(ordered.values()))


def keep_winners(
    search: Search, study: Study, winners: Sequence[tuple[FrozenTrial, list[str]]], outcomes: Sequence[Outcome]
) -> list[Winner]:
    """Note in the study's folder which records are winners and what finding them cost; failed ones are not."""
    good = {o.planned.trial.id for o in outcomes if o.record is not None}
    seeds = fresh_seeds(search.settings.winner_seeds, search.request_seed)
    kept = []
    for trial, ids in winners:
        if good.issuperset(ids):
            kept.append(
                Winner(
                    number=trial.number,
                    proposal=proposal_of(study, trial).trial_id,
                    params=dict(trial.params),
                    values=tuple(trial.values),
                    seeds=seeds,
                    trial_ids=tuple(ids),
                    budget=budget(study),
                )
            )
    search.folder.add_winners(kept)
    return kept


def budget(study: Study) -> SearchBudget:
    """What the study has spent so far."""
    counts: dict[str, Any] = study.counts()
    return SearchBudget(
        study=study.folder.id,
        **counts,
        train_seconds=round(study.seconds, 3),
        objective=",".join(study.spec.objective.names),
        sampler=study.spec.sampler,
    )


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
