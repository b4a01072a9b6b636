"""TensorBoard's event files, by tensorboardX, which Ray Tune brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX import SummaryWriter

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial


class TensorBoard:
    """A folder per trial under one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writers: dict[str, Any] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    def started(self, planned: PlannedTrial, config: dict[str, Any]) -> None:
        trial = planned.trial.id
        self._writers[trial] = SummaryWriter(str(self._root / trial))
        self._configs[trial] = config
        text = "\n".join(f"    {k}: {v}" for k, v in config.items())
        self._writers[trial].add_text("specification", text)

    def epoch(self, trial_id: str, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writers[trial_id].add_scalar(name.replace(".", "/", 1), value, epoch)

    def ended(self, trial_id: str, status: str, final: dict[str, float]) -> None:
        writer = self._writers.pop(trial_id)
        if final:
            named = {f"final/{k}": v for k, v in final.items()}  # apart from the curves of the same name
            writer.add_hparams(self._configs[trial_id], named, name="final")
        writer.add_text("status", status)
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def start(store: Path) -> TensorBoard:
    """See `tracker.TRACKERS`."""
    return TensorBoard(store / "tensorboard")
