"""What a tracker is told, and how trackers are chosen and started."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wbcbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial

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


__all__ = ["TRACKERS", "Tracker", "start_trackers"]
