"""Optimiser and learning-rate schedule, both functions of the recipe and the step number."""

from __future__ import annotations

import math

import torch
from torch import nn

from wbcbench.spec import Recipe


def make_optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum; no weight decay on biases, norms and other vectors."""
    params = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Linear warm-up from 0, then cosine to 0 at the last step. `step` counts from 0 over all epochs."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = steps_per_epoch * epochs
    if warmup > 0:
        # A budget shorter than the warm-up still reaches the peak, halfway through.
        warmup = min(warmup, total / 2)
        if step < warmup:
            return recipe.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, total - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def class_weights(counts: torch.Tensor, how: str) -> torch.Tensor:
    """[K] weight of each class in the task loss, mean 1 over training cells. `counts`: [K]."""
    n = counts.clamp(min=1).double()
    raw = {"none": torch.ones_like(n), "sqrt": n.rsqrt(), "inverse": 1 / n}[how]
    mean = (raw * counts).sum() / counts.sum()
    return (raw / mean).float()
