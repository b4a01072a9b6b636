"""Execute a plan: train what is missing, then, with `--evaluate full`, evaluate the students in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.records.store import Store
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.source import Outcome, PlanSource, all_cached, in_order

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import Observers, PluginOptions
    from wbcbench.scheduling.source import Outcome, Screens
    from wbcbench.spec.request import Request


def examine_students(
    outcomes: Sequence[Outcome],
    plan: Plan,
    request: Request,
    registry: Registry,
    decoding: Callable[[int, int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """The full evaluation of every student that has a record, in this process; read from disk if already done.

    Args:
        outcomes: of trials on the plan's data set.
        plan: used for its data set only.
        request: for its store and device.
        registry: the one used for planning.
        decoding: called with progress in reading images.
    """
    from wbcbench.scheduling.inline import prepare
    from wbcbench.training.report import examined

    records = [o.record for o in outcomes if o.record is not None and o.planned.role == "student"]
    if not records:
        return []

    bench = prepare(Plan([], plan.dataset, plan.description), request, registry, decoding)
    return [examined(record, bench) for record in records]


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
    """The outcomes of the plan's trials, in its order, and the full evaluation of each student if requested.

    Does not import torch if nothing is left to do.
    """
    outcomes = all_cached(plan, Store(request.root))
    if outcomes is not None and evaluate == "standard":
        return outcomes, []
    from wbcbench.scheduling.executors import execute

    with screens(len(plan.trials)) as display:
        if outcomes is None:
            source = PlanSource(plan.trials)
            outcomes = in_order(plan, execute(request, plan, registry, plugins, source, display, observers))
        if evaluate == "standard":
            return outcomes, []
        return outcomes, examine_students(outcomes, plan, request, registry, display.decoding)


__all__ = ["Evaluate", "carry_out", "examine_students"]
