"""From a request to a study: the space, the refusals before anything is spent, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any

from wbcbench import __version__
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.scheduling.plan import Plan, PlannedTrial, make_plan
from wbcbench.searches.declared import build_space, known_ranges, written_out
from wbcbench.searches.files import StudyFolder, StudySpec
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.settings import Objective, SearchSettings, check_strategy
from wbcbench.searches.source import SearchSource, sealed
from wbcbench.searches.space import Space, label
from wbcbench.spec.request import Request

TRAINING_SEED = 1000
"""Proposals train with this seed unless another is asked for: far from those that people compare with, so
that a winner can be retrained with 0, 1, 2 as everything else is."""


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
    """Every combination of methods with defaults, and their teachers: what must be possible at all."""

    @property
    def store(self) -> Store:
        return Store(self.request.root)

    @property
    def request_seed(self) -> int:
        """The seed with which proposals are trained."""
        return self.request.seeds[0]

    def plan(self, request: Request) -> Plan:
        """Plan one proposal. Raises `UsageError` for parameters that exclude each other."""
        return make_plan(request, self.registry)

    def study(self) -> Study:
        """Open the study's folder and live its proposals again."""
        self.folder.open(self.spec)
        return Study(self.spec, self.folder, self.store)

    def source(self, study: Study) -> SearchSource:
        """What an executor takes the study's trials from."""
        return SearchSource(study, self.space, self.plan, self.settings.trials, self.settings.budget_seconds)


def prepare_search(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any] | None = None
) -> Search:
    """Build the space, plan every combination of methods once, and name the study. Writes nothing.

    Raises:
        UsageError: unknown names, methods that cannot work, or a sampler or pruner that cannot do this.
    """
    request = _one_seed(request)
    make_plan(request, registry)  # refuses unknown names before they are missed in the space
    space = build_space(request, registry, ranges)
    objective = Objective.parse(settings.objective)
    check_strategy(space, objective, settings.sampler, settings.pruner)
    base, ids = _base(space, partial(make_plan, registry=registry))
    spec = StudySpec(
        methods=tuple(ids),
        dimensions=space.dimensions,
        objective=objective,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=settings.seed,
        epochs=request.budget.epochs,
        title=_title(request),
        request=request.model_dump(mode="json"),
        versions={"wbcbench": __version__, "optuna": version("optuna")},
    )
    folder = StudyFolder(Store(request.root), settings.name or spec.digest)
    return Search(request, settings, space, spec, folder, registry, base)


def prepare_searches(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any]
) -> list[Search]:
    """One search, or with `each` an equal one of its own for every method. Raises as `prepare_search` does."""
    prepare = each_method if settings.each else lambda *given: [prepare_search(*given)]
    return prepare(request, registry, settings, ranges)


def each_method(
    request: Request, registry: Registry, settings: SearchSettings, ranges: dict[str, Any]
) -> list[Search]:
    """An equal search of its own for every fusion, backbone and combination of distillers.

    Raises:
        UsageError: as `prepare_search`, for any of them, before anything is spent.
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
    if "seeds" not in request.model_fields_set:
        return request.model_copy(update={"seeds": (TRAINING_SEED,)})
    if len(request.seeds) != 1:
        raise UsageError(
            f"A search trains each proposal with one seed, but got {len(request.seeds)}. Say which "
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
    return Plan(list(ordered.values()), plan.dataset, plan.description, plan.notes), ids


def _title(request: Request) -> str:
    kd = ["+".join(map(label, combination)) for combination in request.kd]
    parts = [",".join(map(label, request.fusion)), f"kd {','.join(kd)}"]
    if request.policy:
        parts.append("+".join(map(label, request.policy)))
    if any(b.name != "cellnet" for b in request.backbone) or len(request.backbone) > 1:
        parts.append(",".join(map(label, request.backbone)))
    return ", ".join(parts)


__all__ = ["TRAINING_SEED", "Search", "each_method", "prepare_search", "prepare_searches"]
