"""A plan carried out: what is missing is trained, and on request the students' networks are examined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.records.store import Store
from wbcbench.scheduling.outcome import all_cached, in_order

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import Observers, PluginOptions
    from wbcbench.scheduling.outcome import Outcome
    from wbcbench.scheduling.plan import Plan
    from wbcbench.scheduling.source import Screens
    from wbcbench.spec.request import Request

Evaluate = Literal["standard", "full"]


def carry_out(
    plan: Plan,
    request: Request,
    registry: Registry,
    plugins: PluginOptions,
    screens: Screens,
    observers: Observers,
    evaluate: Evaluate = "standard",
) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """What became of the plan's trials, in its order; and what `full` found out about each student.

    Imports no torch where nothing is left to do.
    """
    outcomes = all_cached(plan, Store(Path(request.store)))
    if outcomes is not None and evaluate == "standard":
        return outcomes, []
    from wbcbench.scheduling.executors import execute
    from wbcbench.scheduling.source import PlanSource

    with screens(len(plan.trials)) as display:
        if outcomes is None:
            source = PlanSource(plan.trials)
            outcomes = in_order(plan, execute(request, plan, registry, plugins, source, display, observers))
        if evaluate == "standard":
            return outcomes, []
        from wbcbench.scheduling.examining import examine_students

        return outcomes, examine_students(outcomes, plan, request, registry, display.decoding)


__all__ = ["Evaluate", "carry_out"]
