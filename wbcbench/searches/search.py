"""Prepare a search from a request, run it, and retrain its winners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, TrialState

from wbcbench import __version__
from wbcbench.data.auto import completed
from wbcbench.errors import IncompatibleError, TrialFailedError, UsageError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling import executors
from wbcbench.scheduling.plan import Plan, PlannedTrial, make_plan
from wbcbench.scheduling.source import Outcome, PlanSource, Screens, TrialSource, all_cached
from wbcbench.searches.declared import build_space, known_ranges, written_out
from wbcbench.searches.files import Proposal, SearchBudget, StudyFolder, StudySpec, Winner
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.settings import Objective, SearchSettings, check_strategy
from wbcbench.searches.source import SearchSource, sealed, several_folds
from wbcbench.searches.space import Space, label
from wbcbench.spec.request import Request

TRAINING_SEED = 1000
"""Default seed for training proposals. It is far from the seeds of comparisons, so that a winner can be
retrained with 0, 1, 2 like all other methods."""


@dataclass(frozen=True)
class Search:
    """One study, ready to run."""

    request: Request
    settings: SearchSettings
    space: Space
    spec: StudySpec
    folder: StudyFolder
    registry: Registry
    base: Plan
    """Every combination of methods with default parameters, and their teachers; all must be valid."""

    @property
    def store(self) -> Store:
        return Store(self.request.root)

    @property
    def request_seed(self) -> int:
        """The seed for training proposals."""
        return self.request.seeds[0]

    def plan(self, request: Request) -> Plan:
        """Plan one proposal. Raises `UsageError` for incompatible parameters.

        A setting of the user's that has no effect in this proposal, but in others, is at its default in it.
        """
        return make_plan(request, self.registry, refuse_unused=False)

    def study(self) -> Study:
        """Open the study's folder and replay its proposals."""
        self.folder.open(self.spec)
        return Study(self.spec, self.folder, self.store)

    def source(self, study: Study) -> SearchSource:
        """The source of trials for an executor."""
        return SearchSource(study, self.space, self.plan, self.settings.trials, self.settings.budget_seconds)


def prepare_search(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any] | None = None
) -> Search:
    """Build the space, plan every combination of methods once, and name the study. Writes nothing.

    Raises:
        UsageError: unknown names, incompatible methods, or a sampler or pruner that does not support the search.
    """
    request = _one_seed(request)
    plan = make_plan(request, registry)  # refuses unknown names first: the space would report them less clearly
    reads = max(len(p.trial.reads) for p in plan.trials if p.role == "student")
    space = build_space(request, registry, ranges, {"modalities": reads})
    objective = Objective.parse(settings.objective)
    check_strategy(space, objective, settings.sampler, settings.pruner)
    whole, _ = completed(request, plan.description, plan.dataset)
    base, ids = _base(space, partial(make_plan, registry=registry))
    spec = StudySpec(
        methods=tuple(ids),
        dimensions=space.dimensions,
        objective=objective,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=settings.seed,
        epochs=whole.budget.epochs,
        title=_title(request),
        request=whole.model_dump(mode="json"),
        versions={"wbcbench": __version__, "optuna": version("optuna")},
    )
    folder = StudyFolder(Store(request.root), settings.name or spec.digest)
    return Search(request, settings, space, spec, folder, registry, base)


def prepare_searches(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any]
) -> list[Search]:
    """One search; with `each`, one search per method, with equal budgets. Raises as `prepare_search` does."""
    prepare = each_method if settings.each else lambda *given: [prepare_search(*given)]
    return prepare(request, registry, settings, ranges)


def each_method(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any]
) -> list[Search]:
    """One search, with an equal budget, for every fusion, backbone and combination of distillers.

    Raises:
        UsageError: as `prepare_search`, for any of them, before any training.
    """
    make_plan(request, registry)
    known_ranges(request, registry, ranges, strict=True)
    request = written_out(request, registry)
    found: list[Search] = []
    for fusion, backbone, kd in product(request.fusion, request.backbone, request.kd):
        one = request.model_copy(update={"fusion": (fusion,), "backbone": (backbone,), "kd": (kd,)})
        name = None if settings.name is None else f"{settings.name}-{len(found)}"
        mine = known_ranges(one, registry, ranges)
        try:
            found.append(prepare_search(one, registry, settings.model_copy(update={"name": name}), mine))
        except IncompatibleError:
            if request.incompatible == "refuse":
                raise
    return found


def _one_seed(request: Request) -> Request:
    if request.split.folded and (request.folds is None or len(request.folds) != 1):
        raise several_folds(request.split.scheme)
    if "seeds" not in request.model_fields_set:
        return request.model_copy(update={"seeds": (TRAINING_SEED,)})
    if len(request.seeds) != 1:
        raise UsageError(
            f"Expected one seed for all proposals of a search, but got {len(request.seeds)}. Choose one "
            f"(--seeds {TRAINING_SEED}); winners are retrained with several: --winner-seeds 0,1,2"
        )
    return request


def _base(space: Space, planner: Any) -> tuple[Plan, list[str]]:
    """One plan of all combinations of methods, students sealed, and the students' ids."""
    ordered: dict[str, PlannedTrial] = {}
    ids = []
    plan: Plan | None = None
    for method in space.methods():
        plan = planner(space.overlay(method))
        student = sealed(plan)
        for planned in plan.trials:
            if planned.role == "teacher":
                ordered[planned.trial.id] = planned
        ordered[student.id] = PlannedTrial(student, "student")
        ids.append(student.id)
    assert plan is not None
    return Plan(list(ordered.values()), plan.dataset, plan.description, plan.notes, answers=plan.answers), ids


def _title(request: Request) -> str:
    kd = ["+".join(map(label, combination)) for combination in request.kd]
    parts = [",".join(map(label, request.fusion)), f"kd {','.join(kd)}"]
    if request.policy:
        parts.append("+".join(map(label, request.policy)))
    if len(request.backbone) > 1 or getattr(request.backbone[0], "name", "") != "cellnet":
        parts.append(",".join(map(label, request.backbone)))
    return ", ".join(parts)


def ranking(study: Study) -> list[FrozenTrial]:
    """Finished proposals that can win, best first, each trial once.

    With one objective: all finished ones, by value. With several: the Pareto set, by the first objective.
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
    """The stored proposal of one of the study's Optuna trials."""
    return study.asked[trial.number].proposal


def fresh_seeds(wanted: Sequence[int], used: int) -> tuple[int, ...]:
    """The wanted seeds, all shifted up if the search itself has trained with one of them."""
    shift = used + 1 - min(wanted) if used in wanted else 0
    return tuple(s + shift for s in dict.fromkeys(wanted))


def plan_winners(search: Search, study: Study) -> tuple[list[tuple[FrozenTrial, list[str]]], Plan]:
    """The winners with the ids of the trials that retrain them, and one plan of these trials and their teachers.

    Raises:
        TrialFailedError: no proposal has finished.
    """
    chosen = ranking(study)[: search.settings.winners]
    if not chosen:
        counts = study.counts()
        raise TrialFailedError(
            f"Search '{search.folder.id}' has no finished proposal to choose from: {counts['pruned']} pruned, "
            f"{counts['failed']} failed. See `failures/` in the store for the reasons; the space may be too wide."
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
    """Store in the study's folder which records are winners, and the search's budget; leaves out failed ones."""
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
    """The budget that the study has spent so far."""
    counts: dict[str, Any] = study.counts()
    return SearchBudget(
        study=study.folder.id,
        **counts,
        train_seconds=round(study.seconds, 3),
        objective=",".join(study.spec.objective.names),
        sampler=study.spec.sampler,
    )


PATIENCE = 5.0
"""Seconds to wait for another process that holds the study's lock: one that was just stopped releases it soon."""


@dataclass
class Found:
    """The result of a search."""

    search: Search
    study: Study
    outcomes: list[Outcome]
    """Of proposals and missing teachers, of this start only."""
    winners: list[Winner] = field(default_factory=list)
    retrained: list[Outcome] = field(default_factory=list)


def run_search(
    search: Search,
    screens: Screens,
    observers: Observers,
    plugins: PluginOptions | None = None,
    retrain: bool = True,
) -> Found:
    """Run or resume a study until its budget is spent, then retrain its winners.

    The request selects the executor, see `executors.choose`. If several trials run at once, a proposal is based on
    the trials finished by then, so the same seed may give other proposals than inline.

    Raises:
        TrialFailedError: a teacher failed, or no proposal finished.
        WbcbenchError: another process runs the same study in the same store. Each would count the other's
            proposals as its own.
    """

    def execute(plan: Plan, source: TrialSource, trials: int, times: int = 1) -> list[Outcome]:
        counted = {"counted": "proposals"} if plan is search.base else {}
        with screens(trials, **counted) as screen:
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
