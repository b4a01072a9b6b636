"""What a tracker is told, how trackers are chosen and started, and a display that also logs to them."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.spec.canonical import flat

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial
    from wbcbench.scheduling.source import Outcome, Screen


TRACKERS = {
    "tensorboard": "STORE/tensorboard/, a folder per trial: `tensorboard --logdir STORE/tensorboard`",
    "mlflow": "MLFLOW_TRACKING_URI (default: STORE/mlflow.db), experiment MLFLOW_EXPERIMENT_NAME or wbcbench",
    "wandb": "project WANDB_PROJECT or wbcbench; WANDB_MODE=offline keeps it on this machine",
}
"""Name -> where it writes. Each is a module beside this one."""


class Tracker(Protocol):
    """Told of trials from one thread; several may train at once."""

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        """A trial begins. `config`: dotted name -> number or text."""
        ...

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        """An epoch (counted from 0) is over. `values`: learning rate, loss terms, metrics on validation cells."""
        ...

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        """A trial ended. `final`: metrics as `test_macro_f1`, costs as `cost_params`; empty if it failed."""
        ...

    def close(self) -> None:
        """No more trials."""
        ...


@contextmanager
def start_trackers(names: str | Sequence[str] | None, store: Path) -> Iterator[dict[str, Tracker]]:
    """Trackers by name, closed at the end, whatever happens.

    Args:
        names: comma list or list; None: none.
        store: where those that write files put them.

    Raises:
        UsageError: no tracker is called so, or its package is missing.
    """
    chosen = [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else list(names or [])
    with ExitStack() as stack:
        trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(chosen):
            if name not in TRACKERS:
                raise UsageError(
                    f"No tracker is called '{name}'.{did_you_mean(name, TRACKERS)} "
                    f"There are: {', '.join(TRACKERS)}."
                )
            try:
                module = importlib.import_module(f"wbcbench.tracking.{name}_tracker")
                trackers[name] = module.start(store)
            except ImportError as error:
                raise UsageError(
                    f"--track {name} needs a package that is not installed ({error.name}): "
                    f"pip install 'wbcbench[{name}]'"
                ) from error
            stack.callback(trackers[name].close)
        yield trackers


log = logging.getLogger(__name__)


def tracked(display: Screen, trackers: Mapping[str, Tracker]) -> Screen:
    """The display, telling the trackers too; the display itself if there are none."""
    return _Tracked(display, trackers) if trackers else display


class _Tracked:
    def __init__(self, display: Screen, trackers: Mapping[str, Tracker]) -> None:
        self._display, self._trackers = display, dict(trackers)
        self._known: set[str] = set()

    def decoding(self, done: int, total: int, what: str) -> None:
        self._display.decoding(done, total, what)

    def trial_started(self, planned: PlannedTrial) -> None:
        self._display.trial_started(planned)

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        self._display.epoch_done(planned, epoch, epochs, row)
        key = planned.trial.id
        if key not in self._known:  # not when it starts: a trial that was in the store already starts too
            self._known.add(key)
            config = config_of(planned)
            self._tell(lambda t: t.started(planned, config))
        values = {k: float(v) for k, v in row.items() if k != "epoch" and _finite(v)}
        self._tell(lambda t: t.epoch(key, epoch, values))

    def trial_ended(self, outcome: Outcome) -> None:
        self._display.trial_ended(outcome)
        key = outcome.planned.trial.id
        if key in self._known:
            self._known.discard(key)
            self._tell(lambda t: t.ended(key, outcome.status, _final(outcome)))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception:
                log.warning("Tracker '%s' failed and hears no more; the trials go on.", name, exc_info=True)
                del self._trackers[name]


def config_of(planned: PlannedTrial) -> dict[str, Any]:
    """A trial's specification, flat: `protocol.budget.epochs` -> 30, and `role`, `method`, `kd`."""
    trial = planned.trial
    config: dict[str, Any] = {
        "role": planned.role,
        "method": trial.label,
        "kd": trial.method.kd,
        "trial_id": trial.id,
    }
    for path, value in flat(trial.model_dump(mode="json")):
        if path == "method.teachers":
            continue
        if isinstance(value, list):
            config[path] = ", ".join(map(str, value))
        elif value is not None:
            config[path] = value
    return config


def _final(outcome: Outcome) -> dict[str, float]:
    if outcome.record is None:
        return {}
    from wbcbench.records import frames

    row = frames.flat(outcome.record)
    return {k: float(v) for k, v in row.items() if k.startswith(("test_", "val_", "cost_")) and _finite(v)}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["TRACKERS", "Tracker", "config_of", "start_trackers", "tracked"]
