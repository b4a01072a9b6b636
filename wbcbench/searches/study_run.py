"""Plan and run a study's parts, one after another. Trials that are in the store already are not run again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wbcbench.errors import TrialFailedError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import PluginOptions
from wbcbench.scheduling.executors import execute
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.scheduling.resources import estimate, train_cells
from wbcbench.scheduling.source import Outcome, PlanSource, Screens, all_cached, in_order
from wbcbench.searches.search import Search, prepare_searches, run_search
from wbcbench.searches.study_file import Part, choose, plan_finalists

if TYPE_CHECKING:
    from wbcbench.registry.loading import Observers
    from wbcbench.spec.request import Request


log = logging.getLogger("wbcbench")


@dataclass(frozen=True)
class Planned:
    """A part with its trials, or with its searches."""

    part: Part
    plan: Plan | None
    searches: tuple[Search, ...] = ()
    waits: int = 0
    """Of finalists: the number of missing trials in the part that they are from."""


@dataclass(frozen=True)
class Costs:
    """The cost of a part. Trials shared by several parts are counted in each."""

    trials: int
    done: int
    seconds: float | None
    """Of the remaining training, estimated from earlier runs in the store; None if there are none."""
    unknown: int
    """Number of trials to run without an estimate."""
    waits: int = 0
    """See `Planned`. Until these are done, the part's trials are unknown."""


@dataclass
class Done:
    """The result of a part."""

    part: Part
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why searches ended early or finalists could not be chosen."""
    examinations: list[dict[str, Any]] = field(default_factory=list)
    """Results of the full evaluation of the networks, if requested."""

    @property
    def failed(self) -> list[Outcome]:
        """Trials that failed."""
        return [o for o in self.outcomes if o.status == "failed"]


def plan_part(part: Part, registry: Registry) -> Planned:
    """Resolve a part. Raises as `make_plan` and `prepare_searches` do."""
    if part.finalists is not None:
        assert part.source is not None
        chosen = choose(make_plan(part.source.request, registry), Store(part.source.request.root), part.finalists)
        if isinstance(chosen, int):
            return Planned(part, None, waits=chosen)
        return Planned(part, plan_finalists(part.request, chosen, registry))
    if part.settings is None:
        return Planned(part, make_plan(part.request, registry))
    return Planned(part, None, tuple(prepare_searches(part.request, registry, part.settings, part.ranges)))


def costs(planned: Planned) -> Costs:
    """Number of trials and of finished ones, and the estimated time for the rest; of a search, its proposals."""
    store = Store(planned.part.request.root)
    if planned.waits:
        rows, proposals, asked = [], 0, 0
    elif planned.plan is None:
        rows = [row for s in planned.searches for row in estimate(s.base, store) if row["role"] == "teacher"]
        assert planned.part.settings is not None
        proposals = planned.part.settings.trials * len(planned.searches)
        asked = sum(min(len(s.folder.proposals()), s.settings.trials) for s in planned.searches)
    else:
        rows, proposals, asked = estimate(planned.plan, store), 0, 0
    left = [row["estimated_seconds"] for row in rows if not row["done"]]
    known = [s for s in left if s is not None]
    return Costs(
        trials=len(rows) + proposals,
        done=len(rows) - len(left) + asked,
        seconds=sum(known) if known else None,
        unknown=len(left) - len(known) + proposals - asked,
        waits=planned.waits,
    )


def run_part(
    planned: Planned,
    registry: Registry,
    plugins: PluginOptions,
    observers: Observers,
    screens: Callable[[int | None], Screens],
    full: bool = False,
) -> Done:
    """Run the missing trials of a part. A trial that fails does not stop the others.

    Args:
        planned: from `plan_part`.
        registry: the one used for planning.
        plugins: options it was made with.
        observers: are notified of trials.
        screens: number of training cells -> displays.
        full: also run the full evaluation of the students; for a search, of the retrained ones.
    """
    part = planned.part
    if planned.waits:  # the part that it waited for has run by now
        planned = plan_part(part, registry)
    done = Done(part)
    if planned.waits:
        assert part.source is not None
        done.failures.append(
            f"{planned.waits} trials of '{part.source.name}', which it takes its methods from, are missing"
        )
    if planned.plan is not None:
        plan, request = planned.plan, part.request
        outcomes = all_cached(plan, Store(request.root))
        if outcomes is None:
            with screens(train_cells(plan))(len(plan.trials)) as display:
                source = PlanSource(plan.trials)
                ended = execute(request, plan, registry, plugins, source, display, observers)
                outcomes = in_order(plan, ended)
        done.outcomes = outcomes
        if full:
            _examine(done, outcomes, plan, request, registry)
    for search in planned.searches:
        try:
            found = run_search(search, screens(train_cells(search.base)), observers, plugins)
        except TrialFailedError as error:  # the searches of the other methods must still run
            done.failures.append(f"{search.spec.title}: {error}")
            continue
        done.outcomes += found.retrained
        if full:
            _examine(done, found.retrained, search.base, search.request, registry)
    return done


def _examine(done: Done, outcomes: list[Outcome], plan: Plan, request: Request, registry: Registry) -> None:
    from wbcbench.scheduling.execute import examine_students

    try:
        done.examinations += examine_students(outcomes, plan, request, registry)
    except Exception as error:  # trained networks are kept, and the other parts must still be trained
        log.debug("full evaluation of part %s failed", done.part.name, exc_info=True)
        done.failures.append(f"The full evaluation of its networks failed: {error}")


__all__ = ["Costs", "Done", "Planned", "costs", "plan_part", "run_part"]
