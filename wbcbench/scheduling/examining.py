"""Examining the students of a plan once they are trained: what `--evaluate full` adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wbcbench.registry import Registry
from wbcbench.scheduling.inline import prepare
from wbcbench.scheduling.outcome import Outcome
from wbcbench.scheduling.plan import Plan
from wbcbench.spec.request import Request
from wbcbench.training.examine import examined


def examine_students(
    outcomes: Sequence[Outcome],
    plan: Plan,
    request: Request,
    registry: Registry,
    decoding: Callable[[int, int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """What is found of every student that has a record, in this process; read back where it was found before.

    Args:
        outcomes: of trials on the plan's data set.
        plan: its trials are left alone.
        request: for its store and device.
        registry: as planned with.
        decoding: is told of progress in reading images.
    """
    records = [o.record for o in outcomes if o.record is not None and o.planned.role == "student"]
    if not records:
        return []
    bench = prepare(Plan([], plan.dataset, plan.description), request, registry, decoding)
    return [examined(record, bench) for record in records]


__all__ = ["examine_students"]
