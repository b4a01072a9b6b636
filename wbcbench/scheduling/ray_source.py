"""Connects a `TrialSource` to Ray Tune: which trial runs next, whether it continues, and its outcome.

Tune drives the sweep through small adapters that delegate to one `Bridge`, whose methods never raise: an
exception in a callback would make Tune drop the whole sweep. Instead it is stored, the sweep ends, and the
executor raises it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from wbcbench.errors import DataError, WbcbenchError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers
from wbcbench.scheduling.plan import PlannedTrial
from wbcbench.scheduling.ray_worker import EndMessage, EpochMessage, source_digests, unpack
from wbcbench.scheduling.source import Display, Outcome, TrialSource, Wait, lost_teacher

log = logging.getLogger("wbcbench")
T = TypeVar("T")

PATIENCE = 10.0
"""Seconds within which a worker's record must become visible here, over a shared file system."""


@dataclass
class _Running:
    planned: PlannedTrial
    alone: bool = False
    started: bool = False
    pruned: bool = False
    deaths: int = 0
    reason: str = ""
    """Why its worker last died."""


def _kept(default: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Store what a method of `Bridge` raises in `bridge.crash`, and return `default`."""

    def decorate(method: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(method)
        def wrapper(self: Bridge, *args: Any) -> T:
            try:
                return method(self, *args)
            except Exception as error:
                self.crash = self.crash or error
                return default  # type: ignore[no-any-return]

        return wrapper

    return decorate


class Bridge:
    """The state of one sweep, on the driver."""

    def __init__(
        self,
        source: TrialSource,
        display: Display,
        observers: Observers,
        store: Store,
        registry: Registry,
        jobs: int,
    ) -> None:
        """`jobs`: how many trials may run at once. Not left to Tune, whose limit would still count a trial that it
        has dropped, and wait for its end forever.
        """
        self.outcomes: list[Outcome] = []
        self.crash: Exception | None = None
        """What ended the sweep early; the executor raises it."""
        self.exhausted = False
        """Whether the source has reported that there are no more trials."""
        self._source, self._display, self._observers = source, display, observers
        self._store, self._registry, self._jobs = store, registry, jobs
        self._running: dict[str, _Running] = {}
        self._again: list[PlannedTrial] = []
        """Trials that ran out of GPU memory: each is retried once, alone."""
        self._pruned: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its arguments so that a sweep can be restored, which is never done here.
        return (type(None), ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Bridge:
        return self

    @property
    def complete(self) -> bool:
        """Whether every trial of the source has an outcome."""
        return self.exhausted and not self._running and not self._again

    @_kept(None)
    def suggest(self, key: str) -> dict[str, Any] | Wait | None:
        """The config of the next trial for a worker, `"wait"`, or None at the end."""
        if self.crash is not None:
            return None
        if len(self._running) >= self._jobs or any(r.alone for r in self._running.values()):
            return "wait"
        if self._again and self._running:
            return "wait"
        alone = bool(self._again)
        planned = self._again.pop(0) if alone else self._next()
        if planned is None or planned == "wait":
            self.exhausted = planned is None
            return planned
        config = {
            "id": planned.trial.id,
            "trial": planned.trial.model_dump_json(),
            "sources": source_digests(planned.trial, self._registry),
            "alone": alone,
        }
        self._running[key] = _Running(planned, alone, started=alone)
        return config

    def _next(self) -> PlannedTrial | Wait | None:
        """The next trial that needs a worker; trials that do not need one are ended here."""
        while (planned := self._source.next()) is not None and planned != "wait":
            trial = planned.trial
            lost = lost_teacher(planned, self.outcomes)
            if lost is None and trial.id not in self._pruned and not self._store.has(trial.id):
                return planned
            self._announce(planned)
            if lost is not None:
                self._end(Outcome(planned, "failed", error=f"its teacher {lost} failed"))
            elif trial.id in self._pruned:
                # Its worker may still be stopping, and it would only be stopped again at the same epoch.
                self._end(Outcome(planned, "pruned"))
            else:
                self._end(self._from_store(planned, "cached"))
        return planned

    @_kept(None)
    def started(self, key: str) -> None:
        """A worker has started the trial, or restarted it."""
        running = self._running.get(key)
        if running is not None and not running.started:
            running.started = True
            self._announce(running.planned)

    @_kept(True)
    def stops(self, key: str, result: dict[str, Any]) -> bool:
        """Process a result; returns whether the trial is to stop now."""
        running, message = self._running.get(key), unpack(result)
        if self.crash is not None or running is None or not isinstance(message, EpochMessage):
            return running is not None and isinstance(message, EndMessage)
        self._display.epoch_done(running.planned, message.epoch, message.epochs, message.row)
        running.pruned = self._source.epoch(running.planned, message.epoch, message.row)
        return running.pruned

    @_kept(None)
    def died(self, key: str, text: str | None) -> None:
        """The trial's worker died. Tune restarts the trial or, after too many deaths, calls `ended`."""
        running = self._running.get(key)
        if running is None:
            return
        running.deaths += 1
        running.reason = reason_of(text or "")
        log.warning("%s: %s", running.planned.trial.label, running.reason)

    @_kept(None)
    def check(self, errors: Iterable[str]) -> None:
        """End the sweep if Tune gave a trial up without a call of `ended`: it would wait for that trial forever.

        It does so if a worker cannot be reused, see `ray_worker.STOPPING`.
        """
        if dropped := sorted(self._running[key].planned.trial.label for key in errors if key in self._running):
            raise WbcbenchError(
                f"Ray Tune dropped {', '.join(dropped)}, since its worker could not be reused. Finished trials "
                "are stored; run the same command again to resume."
            )

    @_kept(None)
    def ended(self, key: str, result: dict[str, Any] | None, error: bool) -> None:
        """The trial has ended and sends no more results."""
        running = self._running.pop(key, None)
        if running is None:
            return
        planned, message = running.planned, unpack(result)
        if running.pruned:
            self._pruned.add(planned.trial.id)
            self._end(Outcome(planned, "pruned"))
        elif error or not isinstance(message, EndMessage):
            if self.crash is None:
                self._fail(planned, f"Given up after {running.deaths} attempts: {running.reason}", None)
        elif message.status == "refused":
            self.crash = self.crash or message.exception()
        elif message.status == "no_memory" and not running.alone:
            log.warning("%s: the GPU was full; the trial is retried alone", planned.trial.label)
            self._again.append(planned)
        elif message.status == "no_memory":
            hint = "Choose a smaller batch_size, image_size or backbone."
            self._fail(planned, f"The GPU's memory does not suffice, even alone. {hint}\n{message.error}", None)
        elif message.status == "failed":
            self._fail(planned, message.error, message.exception())
        else:
            self._end(self._from_store(planned, message.status))

    def _from_store(self, planned: PlannedTrial, status: Any) -> Outcome:
        end = time.monotonic() + PATIENCE
        while not self._store.has(planned.trial.id) and time.monotonic() < end:
            time.sleep(0.2)
        try:
            return Outcome(planned, status, self._store.load(planned.trial.id))
        except WbcbenchError as error:
            self._store.fail(planned.trial, str(error))
            return Outcome(planned, "failed", error=str(error), exception=error)

    def _fail(self, planned: PlannedTrial, text: str, exception: WbcbenchError | None) -> None:
        assert not isinstance(exception, DataError)
        self._store.fail(planned.trial, text)
        self._end(Outcome(planned, "failed", error=text, exception=exception))

    def _announce(self, planned: PlannedTrial) -> None:
        self._display.trial_started(planned)
        self._observers.trial_started(planned.trial)

    def _end(self, outcome: Outcome) -> None:
        if outcome.record is not None and outcome.status == "done":
            self._observers.trial_finished(outcome.planned.trial, outcome.record)
        self.outcomes.append(outcome)
        self._display.trial_ended(outcome)
        self._source.ended(outcome)


def reason_of(text: str) -> str:
    """One sentence on why a worker died, from Ray's report."""
    if "memory" in text and ("OutOfMemory" in text or "running low on memory" in text):
        return "its worker was stopped because the machine ran out of memory (fewer --jobs help)"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    return f"its worker process ended unexpectedly ({lines[-1] if lines else 'killed'})"


class SourceSearcher(Searcher):  # type: ignore[misc]
    """Requests trials from the bridge, and reports their ends to it."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        config = self._bridge.suggest(trial_id)
        return Searcher.FINISHED if config is None else None if config == "wait" else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._bridge.ended(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: all state is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("A run resumes from the store, not from Tune's files.")


class SourceScheduler(FIFOScheduler):  # type: ignore[misc]
    """First in, first out; stops a trial when the source requests it, or when the trial has reported its end."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stop = self._bridge.stops(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, controller: Any, trial: TuneTrial) -> None:
        self._bridge.died(trial.trial_id, trial.get_error())


class Controls(tune.Callback):  # type: ignore[misc]
    """Notifies the bridge when a worker starts a trial, and of trials that Tune has given up."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def on_trial_start(self, iteration: int, trials: Any, trial: TuneTrial, **info: Any) -> None:
        self._bridge.started(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._bridge.check(t.trial_id for t in trials if t.status == TuneTrial.ERROR)


class StopAll(tune.Stopper):  # type: ignore[misc]
    """Ends the sweep after an error that affects every trial."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.crash is not None
