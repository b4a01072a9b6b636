"""Everything that a run needs to resume exactly, in one file that is written atomically."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from wbcbench.evaluation.predict import Predictions
from wbcbench.files import atomic_write_bytes

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_VERSION = 2

Weights = dict[str, Tensor]

log = logging.getLogger("wbcbench")


class TrainState:
    """Weights, optimiser, average, best epoch so far and history of one run.

    `modules` holds everything that is trained: the fusion, and policies and distillers with their adapters.
    Random state is not included: every epoch derives its own from (seed, epoch).
    """

    def __init__(self, modules: nn.ModuleDict, optimiser: torch.optim.Optimizer, ema: float = 0.0) -> None:
        self.modules = modules
        self.optimiser = optimiser
        self.ema_decay = ema
        self.average: Weights | None = snapshot(modules["fusion"]) if ema else None
        self.epoch = 0
        """The next epoch to train."""
        self.best: Weights | None = None
        self.best_epoch = -1
        self.best_score = float("-inf")
        self.best_predictions: Predictions | None = None
        """Predictions of `best` for the validation cells, if found by this process: they are not checkpointed."""
        self.history: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.teacher_seconds = 0.0

    def update_average(self) -> None:
        """One step of the exponential average over the fusion's weights (buffers are copied)."""
        if self.average is None:
            return
        for name, value in self.modules["fusion"].state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1.0 - self.ema_decay)
            else:
                self.average[name].copy_(value)

    def consider(self, score: float, weights: Weights) -> bool:
        """Keep `weights` if `score` (higher is better) beats the best so far; ties keep the earlier."""
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {k: v.detach().clone() for k, v in weights.items()}
            return True
        return False

    def save(self, folder: Path, stamp: str) -> None:
        """Write the checkpoint; the previous one is kept until this one is complete."""
        tensors: Weights = {f"model.{k}": v for k, v in self.modules.state_dict().items()}
        for i, param in enumerate(self._params()):
            for key, value in self.optimiser.state.get(param, {}).items():
                tensors[f"optim.{i}.{key}"] = torch.as_tensor(value)
        tensors |= {f"ema.{k}": v for k, v in (self.average or {}).items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        meta = {
            "version": CHECKPOINT_VERSION,
            "stamp": stamp,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score if self.best is not None else None,
            "history": self.history,
            "train_seconds": self.train_seconds,
            "teacher_seconds": self.teacher_seconds,
        }
        folder.mkdir(parents=True, exist_ok=True)
        # clone: the averaged, best and current weights may share memory, which the format does not allow.
        flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        atomic_write_bytes(folder / CHECKPOINT, save(flat, metadata={"wbcbench": json.dumps(meta)}))

    def resume(self, folder: Path, stamp: str) -> bool:
        """Load the checkpoint if there is a usable one; otherwise returns False and changes nothing."""
        path = folder / CHECKPOINT
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                meta = json.loads((file.metadata() or {}).get("wbcbench", "{}"))
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            return False
        model = _under(tensors, "model.")
        same = {k: v.shape for k, v in model.items()} == {k: v.shape for k, v in self.modules.state_dict().items()}
        if meta.get("version") != CHECKPOINT_VERSION or meta.get("stamp") != stamp or not same:
            log.warning("%s was written by another version of the code; the trial starts over.", path)
            return False
        self.modules.load_state_dict(model)
        self._load_optimiser(tensors)
        device = next(self.modules.parameters()).device
        if self.average is not None:
            self.average = {k: v.to(device) for k, v in _under(tensors, "ema.").items()}
        best = {k: v.to(device) for k, v in _under(tensors, "best.").items()}
        self.best = best or None
        self.epoch, self.best_epoch = meta["epoch"], meta["best_epoch"]
        self.best_score = float("-inf") if meta["best_score"] is None else meta["best_score"]
        self.history = meta["history"]
        self.train_seconds, self.teacher_seconds = meta["train_seconds"], meta["teacher_seconds"]
        return True

    def _params(self) -> list[nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _load_optimiser(self, tensors: Weights) -> None:
        for i, param in enumerate(self._params()):
            for key, value in _under(tensors, f"optim.{i}.").items():
                if value.shape == param.shape:
                    # In the memory layout of the parameter: fused optimisers iterate over both together.
                    value = torch.empty_like(param, requires_grad=False).copy_(value)
                self.optimiser.state[param][key] = value


def snapshot(module: nn.Module) -> Weights:
    """A detached copy of a module's state."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _under(tensors: Weights, prefix: str) -> Weights:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
