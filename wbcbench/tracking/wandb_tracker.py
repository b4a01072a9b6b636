"""Weights & Biases runs; several may be open at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial


class WandB:
    """A run per trial in one project."""

    def __init__(self, folder: Path, project: str) -> None:
        self._folder, self._project = folder, project
        self._runs: dict[str, Any] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        trial = planned.trial
        self._runs[trial.id] = wandb.init(
            project=self._project, dir=str(self._folder), config=config, reinit="create_new",
            group=trial.label, job_type=planned.role, name=f"{trial.title}, seed {trial.seed}",
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


def start(store: Path) -> WandB:
    """See `tracker.TRACKERS`."""
    store.mkdir(parents=True, exist_ok=True)
    return WandB(store, os.environ.get("WANDB_PROJECT", "wbcbench"))
