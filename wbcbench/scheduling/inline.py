"""The in-process executor: trials one after another, in the source's order."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import torch

from wbcbench.data.counter import derive_seed
from wbcbench.errors import DataError, IncompatibleError, TrialPruned, WbcbenchError
from wbcbench.isolation import TorchSettings, contained, initial_threads, reset
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.scheduling.source import Display, Outcome, TrialSource, lost_teacher
from wbcbench.scheduling.worth import Say, outside_sentence
from wbcbench.spec import Trial, digest
from wbcbench.spec.request import Request
from wbcbench.training.rehearsal import construct, rehearse
from wbcbench.training.report import outside_teacher
from wbcbench.training.trial import run_trial
from wbcbench.training.workbench import Workbench, pick_device

log = logging.getLogger("wbcbench")


def prepare(
    plan: Plan,
    request: Request,
    registry: Registry,
    decoding: Callable[[int, int, str], None] | None = None,
    say: Say | None = None,
) -> Workbench:
    """Store, device and data set, ready for the plan; `say` is told how good teachers from outside are.

    Broken data is detected here, before any training: a `DataError` affects every trial. So are networks that
    cannot be built as requested, and distillers that cannot read their outputs.
    """
    initial_threads()
    threads = request.threads or request.cpus_per_trial
    if threads is not None:
        torch.set_num_threads(threads)
    bench = Workbench(
        Store(request.root),
        registry,
        pick_device(request.device),
        replay=request.replay == "auto",
        replay_maps_gb=request.replay_maps_gb,
        decoding=decoding,
    )
    bench.add_dataset(plan.description.fingerprint, plan.dataset)
    missing = [p.trial for p in plan.trials if not bench.store.has(p.trial.id)]
    for sha256, path in plan.answers.items():
        bench.store.keep_answers(path, sha256)
    with contained():
        _rehearse(missing, plan, request, registry)
        if missing:
            bench.split(missing[0])
        told = _check_answers(missing, bench)
    if say is not None:
        for sentence in told:
            say(sentence)
    return bench


def _rehearse(missing: list[Trial], plan: Plan, request: Request, registry: Registry) -> None:
    """Build every network and set up every distiller once, before the data are read."""
    built: set[str] = set()
    rehearsed: set[str] = set()
    for trial in missing:
        network = digest([trial.method.fusion, trial.method.backbone, trial.reads, trial.protocol.image_size])
        if network not in built:
            built.add(network)
            try:
                construct(trial, plan.description, registry)
            except IncompatibleError as error:
                if request.incompatible == "refuse":
                    raise
                log.warning("%s This trial will fail; the others are run.", error)
        if trial.method.distillers and trial.method_id() not in rehearsed:
            rehearsed.add(trial.method_id())
            rehearse(trial, plan.description, registry)


def _check_answers(missing: list[Trial], bench: Workbench) -> list[str]:
    """How good the teachers from outside are on validation cells, a sentence for each and fold.

    Raises:
        DataError: one does not answer for every training cell.
    """
    checked: set[str] = set()
    told: list[str] = []
    for trial in missing:
        what = digest([trial.method.outside, trial.protocol.split, trial.fold])
        if trial.method.outside and what not in checked:
            checked.add(what)
            for answers in bench.answers(trial):
                fold = "" if trial.fold is None else f"Fold {trial.fold}. "
                told.append(fold + outside_sentence(outside_teacher(answers, bench, trial, bench.split(trial))))
    return told


class InlineExecutor:
    """Runs each trial in this process. See `source.Executor`."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._settings = TorchSettings.current()

    def run(self, source: TrialSource, display: Display, observers: Observers) -> list[Outcome]:
        """Run what is missing, one after another."""
        outcomes: list[Outcome] = []
        while (planned := source.next()) is not None:
            assert planned != "wait", "no running trial to wait for"
            display.trial_started(planned)
            observers.trial_started(planned.trial)
            lost = lost_teacher(planned, outcomes)
            if lost is None:
                outcome = self._run_one(planned, source, display)
            else:
                outcome = Outcome(planned, "failed", error=f"its teacher {lost} failed")
            if outcome.record is not None and outcome.status == "done":
                observers.trial_finished(planned.trial, outcome.record)
            display.trial_ended(outcome)
            source.ended(outcome)
            outcomes.append(outcome)
        return outcomes

    def _run_one(self, planned: PlannedTrial, source: TrialSource, display: Display) -> Outcome:
        def done(epoch: int, epochs: int, row: dict[str, Any]) -> None:
            display.epoch_done(planned, epoch, epochs, row)
            if source.epoch(planned, epoch, row):
                raise TrialPruned(epoch)

        store = self.bench.store
        try:
            with contained():
                reset(self._settings, derive_seed(planned.trial.seed, "slate"))
                record, cached = run_trial(planned.trial, self.bench, done)
        except DataError:
            raise  # the cells cannot be read, which affects every trial
        except TrialPruned:
            return Outcome(planned, "pruned")
        except Exception as error:
            text = str(error) if isinstance(error, WbcbenchError) else traceback.format_exc()
            store.fail(planned.trial, text)
            log.debug("trial %s failed", planned.trial.id, exc_info=True)
            return Outcome(planned, "failed", error=text, exception=error)
        return Outcome(planned, "cached" if cached else "done", record)
