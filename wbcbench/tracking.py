"""Logging of trials to external trackers while they train. Off by default; records remain the reference.

    wbcbench run --fusion early,independent --track tensorboard,mlflow,wandb

Logging runs in the main process, whichever executor trains, so workers need no tracker installed. A tracker that
fails is reported once and disabled; the trials continue. Each client is imported when its tracker is created.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wbcbench.errors import UsageError, did_you_mean, missing_extra
from wbcbench.spec.trial import flat

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial
    from wbcbench.scheduling.source import Outcome, Screen

log = logging.getLogger(__name__)

TRACKERS = {
    "tensorboard": "STORE/tensorboard/, a folder per trial: `tensorboard --logdir STORE/tensorboard`",
    "mlflow": "MLFLOW_TRACKING_URI (default: STORE/mlflow.db), experiment MLFLOW_EXPERIMENT_NAME or wbcbench",
    "wandb": "project WANDB_PROJECT or wbcbench; WANDB_MODE=offline keeps it on this machine",
}
"""Name -> where it writes."""
MLFLOW_LONGEST = 500
"""Length of a parameter in characters that every MLflow server accepts."""


class Tracker(Protocol):
    """Receives the events of trials, from a single thread; several trials may train at once."""

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        """A trial starts. `config`: dotted name -> number or text."""
        ...

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        """An epoch (counted from 0) ended. `values`: learning rate, loss terms, metrics on validation cells."""
        ...

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        """A trial ended. `final`: metrics as `test_macro_f1`, costs as `cost_params`; empty if it failed."""
        ...

    def close(self) -> None:
        """All trials have ended."""
        ...


class TensorBoard:
    """Writes TensorBoard event files with tensorboardX, in one folder per trial."""

    def __init__(self, store: Path) -> None:
        from tensorboardX import SummaryWriter

        self._root, self._writer = store / "tensorboard", SummaryWriter
        self._writers: dict[str, Any] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        trial = planned.trial.id
        self._writers[trial] = self._writer(str(self._root / trial))
        self._configs[trial] = config
        text = "\n".join(f"    {k}: {v}" for k, v in config.items())
        self._writers[trial].add_text("specification", text)

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writers[trial_id].add_scalar(name.replace(".", "/", 1), value, epoch)

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        writer = self._writers.pop(trial_id)
        if final:
            named = {f"final/{k}": v for k, v in final.items()}  # separate from the curves of the same name
            writer.add_hparams(self._configs[trial_id], named, name="final")
        writer.add_text("status", status)
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """One run per trial in one experiment. Uses MLflow's client, which has no global state, so several runs may be
    open at once."""

    def __init__(self, store: Path) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            store.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(store / 'mlflow.db').resolve()}"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wbcbench")
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        self._runs: dict[str, str] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        from mlflow.entities import Param

        trial = planned.trial
        run = self._client.create_run(self._experiment, run_name=f"{trial.title}, {trial.draw}")
        self._runs[trial.id] = run.info.run_id
        params = [Param(k, str(v)[:MLFLOW_LONGEST]) for k, v in config.items()]
        for i in range(0, len(params), 100):  # the protocol's limit for one request
            self._client.log_batch(run.info.run_id, params=params[i : i + 100])

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        self._log(trial_id, values, epoch)

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        self._log(trial_id, {f"final_{k}": v for k, v in final.items()}, 0)
        state = {"failed": "FAILED", "pruned": "KILLED"}.get(status, "FINISHED")
        self._client.set_terminated(self._runs.pop(trial_id), state)

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")

    def _log(self, trial_id: str, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(k, v, now, step) for k, v in values.items()]
        self._client.log_batch(self._runs[trial_id], metrics=metrics)


class WandB:
    """One run per trial in one project; several may be open at once."""

    def __init__(self, store: Path) -> None:
        import wandb

        store.mkdir(parents=True, exist_ok=True)
        self._init, self._folder = wandb.init, store
        self._project = os.environ.get("WANDB_PROJECT", "wbcbench")
        self._runs: dict[str, Any] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        trial = planned.trial
        self._runs[trial.id] = self._init(
            project=self._project, dir=str(self._folder), config=config, reinit="create_new",
            group=trial.label, job_type=planned.role, name=f"{trial.title}, {trial.draw}",
        )  # fmt: skip

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        self._runs[trial_id].log(values, step=epoch)

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        run = self._runs.pop(trial_id)
        run.summary.update({**final, "status": status})
        run.finish(exit_code=int(status == "failed"))

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)


_CLASSES: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


@contextmanager
def start_trackers(names: str | Sequence[str] | None, store: Path) -> Iterator[dict[str, Tracker]]:
    """Trackers by name; they are always closed at the end.

    Args:
        names: a comma-separated list or a list; None: none.
        store: where trackers write files, if they do.

    Raises:
        UsageError: unknown tracker, or its package is missing.
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
                trackers[name] = _CLASSES[name](store)
            except ImportError as error:
                raise missing_extra(error) or error from None
            stack.callback(trackers[name].close)
        yield trackers


def tracked(display: Screen, trackers: Mapping[str, Tracker]) -> Screen:
    """A display that also logs to the trackers; the display itself if there are none."""
    return _Tracked(display, trackers) if trackers else display


class _Tracked:
    def __init__(self, display: Screen, trackers: Mapping[str, Tracker]) -> None:
        self._display, self._trackers = display, dict(trackers)
        self._known: set[str] = set()

    def decoding(self, done: int, total: int, what: str) -> None:
        self._display.decoding(done, total, what)

    def say(self, sentence: str) -> None:
        self._display.say(sentence)

    def trial_started(self, planned: PlannedTrial) -> None:
        self._display.trial_started(planned)

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        self._display.epoch_done(planned, epoch, epochs, row)
        key = planned.trial.id
        if key not in self._known:  # not in `trial_started`, which is also called for trials found in the store
            self._known.add(key)
            config = config_of(planned)
            self._log(lambda t: t.started(planned, config))
        values = {k: float(v) for k, v in row.items() if k != "epoch" and _finite(v)}
        self._log(lambda t: t.epoch(key, epoch, values))

    def trial_ended(self, outcome: Outcome) -> None:
        self._display.trial_ended(outcome)
        key = outcome.planned.trial.id
        if key in self._known:
            self._known.discard(key)
            self._log(lambda t: t.ended(key, outcome.status, _final(outcome)))

    def _log(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception:
                log.warning("Tracker '%s' failed and is disabled; the trials continue.", name, exc_info=True)
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
