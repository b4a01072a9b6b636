"""After a search: its best proposals by validation, retrained with fresh seeds and then seen by the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, TrialState

from wbcbench.errors import TrialFailedError
from wbcbench.scheduling.outcome import Outcome
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.search.files import Proposal, SearchBudget, Winner
from wbcbench.search.search import Search
from wbcbench.search.study import Study


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
