"""MLflow runs, by its client: no global state, so that several trials may be open at once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial

LONGEST = 500
"""Characters of a parameter that every MLflow server takes."""


class MLflow:
    """A run per trial in one experiment."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        self._runs: dict[str, str] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        trial = planned.trial
        run = self._client.create_run(self._experiment, run_name=f"{trial.title}, seed {trial.seed}")
        self._runs[trial.id] = run.info.run_id
        params = [Param(k, str(v)[:LONGEST]) for k, v in config.items()]
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
        now = int(time.time() * 1000)
        metrics = [Metric(k, v, now, step) for k, v in values.items()]
        self._client.log_batch(self._runs[trial_id], metrics=metrics)


def start(store: Path) -> MLflow:
    """See `tracker.TRACKERS`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        store.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(store / 'mlflow.db').resolve()}"
    return MLflow(uri, os.environ.get("MLFLOW_EXPERIMENT_NAME", "wbcbench"))
