"""Distillation-oriented trainer: separate momentum for task and distillation gradients (Zhao et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, TakesStep, param


def momentum_step(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], momentum: float, lr: float
) -> None:
    """v <- momentum v + g; p <- p - lr v, in place. All tensors of one list index share a shape."""
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    torch._foreach_add_(params, buffers, alpha=-lr)


class Dot(TakesStep, Distiller):
    """Two SGD momenta: m - delta for the task gradient, m + delta for the distillation gradient.

    An optimiser step, not a loss: combine it with any distiller, as in `--kd logits+dot --set
    training.optimiser=sgd --set training.lr=0.05`. Weight decay goes with the task gradient; no Nesterov
    look-ahead. Policies that change gradients and gradient clipping do not apply with it.
    """

    name = "dot"
    source = "Zhao, Cui, Song, Qiu, Liang, ICCV 2023, arXiv 2303.11866, eq. 7-8"
    needs = Needs(student=(), teacher=(), optimiser="sgd", matches="optimiser")

    class Params(DistillerParams):
        delta: float = param(0.075, "Difference from the common momentum.", ge=0, le=1, search=(0.0, 0.09))

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {}

    @torch.enable_grad()
    def optimise(self, optimiser: torch.optim.Optimizer, task: Tensor, kd_loss: Tensor) -> None:
        params = [p for group in optimiser.param_groups for p in group["params"]]
        of_task = torch.autograd.grad(task, params, retain_graph=True, allow_unused=True)
        of_kd: Any = [None] * len(params)
        if kd_loss.requires_grad:
            of_kd = torch.autograd.grad(kd_loss, params, allow_unused=True)
        grads = {id(p): (a, b) for p, a, b in zip(params, of_task, of_kd, strict=True)}
        with torch.no_grad():
            for group in optimiser.param_groups:
                self._group(optimiser, group, grads)

    def _group(self, optimiser: torch.optim.Optimizer, group: dict[str, Any], grads: dict[int, Any]) -> None:
        for which, name, sign in ((0, "task_momentum", -1.0), (1, "kd_momentum", 1.0)):
            params = [p for p in group["params"] if grads[id(p)][which] is not None]
            found = [grads[id(p)][which] for p in params]
            if not params:
                continue
            if which == 0 and group["weight_decay"]:
                found = list(torch._foreach_add(found, params, alpha=group["weight_decay"]))
            states = [optimiser.state[p] for p in params]
            buffers = [s.setdefault(name, torch.zeros_like(p)) for s, p in zip(states, params, strict=True)]
            momentum = min(1.0, max(0.0, group["momentum"] + sign * self.params.delta))
            momentum_step(params, found, buffers, momentum, group["lr"])
