"""The in-process executor: trials one after another, in the plan's order."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from wbcbench.errors import DataError, WbcbenchError
from wbcbench.observers import Observers
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.scheduling.outcome import Outcome
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.spec.request import Request
from wbcbench.training.preflight import rehearse
from wbcbench.training.trial import run_trial
from wbcbench.training.workbench import Workbench, pick_device

log = logging.getLogger("wbcbench")


class Display(Protocol):
    """Where progress is shown. All methods may do nothing."""

    def trial_started(self, position: int, planned: PlannedTrial) -> None: ...
    def epoch_done(self, epoch: int, epochs: int, row: dict[str, Any]) -> None: ...
    def trial_ended(self, outcome: Outcome) -> None: ...


def prepare(
    plan: Plan,
    request: Request,
    registry: Registry,
    decoding: Callable[[int, int, str], None] | None = None,
) -> Workbench:
    """Store, device and data set, ready for the plan.

    Broken data is met here, before any training: a `DataError` concerns every trial alike.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    bench = Workbench(
        Store(Path(request.store)),
        registry,
        pick_device(request.device),
        replay=request.replay == "auto",
        replay_maps_gb=request.replay_maps_gb,
        decoding=decoding,
    )
    bench.add_dataset(plan.description.fingerprint, plan.dataset)
    missing = [p.trial for p in plan.trials if not bench.store.has(p.trial.id)]
    if missing:
        bench.split(missing[0])
    rehearsed: set[str] = set()
    for trial in missing:
        if trial.method.distillers and trial.method_id() not in rehearsed:
            rehearsed.add(trial.method_id())
            cells = bench.cells(trial)
            channels = {m: int(x.shape[1]) for m, x in cells.images.items()}
            rehearse(trial, channels, cells.classes, registry)
    return bench


def run_inline(plan: Plan, bench: Workbench, display: Display, observers: Observers) -> list[Outcome]:
    """Run what is missing. A failed trial fails those that need it; the others go on."""
    outcomes: list[Outcome] = []
    failed: set[str] = set()
    for position, planned in enumerate(plan.trials):
        display.trial_started(position, planned)
        observers.trial_started(planned.trial)
        outcome = _run_one(planned, bench, display, failed)
        if outcome.record is not None and outcome.status == "done":
            observers.trial_finished(planned.trial, outcome.record)
        if outcome.status == "failed":
            failed.add(planned.trial.id)
        display.trial_ended(outcome)
        outcomes.append(outcome)
    return outcomes


def _run_one(planned: PlannedTrial, bench: Workbench, display: Display, failed: set[str]) -> Outcome:
    lost = [t for t in planned.needs if t in failed]
    if lost:
        return Outcome(planned, "failed", error=f"its teacher {lost[0]} failed")
    try:
        record, cached = run_trial(planned.trial, bench, display.epoch_done)
    except DataError:
        raise  # of the cells, and so of every trial
    except Exception as error:
        text = str(error) if isinstance(error, WbcbenchError) else traceback.format_exc()
        bench.store.fail(planned.trial, text)
        log.debug("trial %s failed", planned.trial.id, exc_info=True)
        return Outcome(planned, "failed", error=text, exception=error)
    return Outcome(planned, "cached" if cached else "done", record)
