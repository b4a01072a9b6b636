"""How strongly distillers pull on the student: their gradients beside the task loss's, and weights set by that.

The ratio is |gradient of the weighted distillation loss| / |gradient of the weighted task loss|, over those of the
student's parameters that both reach, before a policy or an optimiser changes them. It is taken from a step's own
batch: no forward pass is repeated, so that a training that is measured gives the same bits as one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from wbcbench.spec import Trial
from wbcbench.spec.weights import BALANCED

SHARE = 1.0
"""The gradient's size that a balanced distiller starts with, in units of the task loss's."""
MOST, EVERY = 10, 80
"""Measurements of a training: at most so many, and one per so many steps. One costs about 1.2 steps."""
SMALLEST = 1e-4
"""Ratios below it, at weight 1, are regarded as no gradient: dividing by them would only magnify noise."""
COLUMN = "gradient_ratio."
"""Starts the columns of a history that hold ratios, before the distiller's name."""


def is_balanced(trial: Trial) -> tuple[int, ...]:
    """Positions of the distillers whose weight is set in the first step of the training."""
    return tuple(i for i, d in enumerate(trial.method.distillers) if d.params.get("weight") == BALANCED)


def measured_epochs(epochs: int, steps: int) -> frozenset[int]:
    """The epochs, evenly spread over the training, in whose middle step ratios are measured: always the first one.

    In the middle, since a loss that is ramped up is nearly zero in the first step of all.
    """
    count = max(1, min(MOST, epochs, epochs * steps // EVERY))
    last = max(1, count - 1)
    return frozenset(round(i * (epochs - 1) / last) for i in range(count))


def gradient_ratios(fusion: nn.Module, task: Tensor, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Distiller -> its ratio, a scalar; NaN where the task loss, or the distiller's, has no gradient to compare.

    Keeps the graph and changes no `.grad`.

    Args:
        fusion: the student.
        task: the weighted task loss, a scalar.
        losses: distiller -> its weighted loss, a scalar.
    """
    params = [p for p in fusion.parameters() if p.requires_grad]
    of_task = _gradients(task, params)
    return {name: _ratio(_gradients(loss, params), of_task) for name, loss in losses.items()}


def balancing_weight(ratio: Tensor, default: float) -> Tensor:
    """The weight that gives a distiller its share, from its ratio at weight 1; `default` if it has no gradient."""
    usable = torch.isfinite(ratio) & (ratio > SMALLEST)
    return torch.where(usable, SHARE / ratio.clamp(min=SMALLEST), default)


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(params)
    return list(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))


def _ratio(mine: Iterable[Tensor | None], task: Iterable[Tensor | None]) -> Tensor:
    both = [(a, b) for a, b in zip(mine, task, strict=True) if a is not None and b is not None]
    if not both:
        return torch.tensor(float("nan"))
    a, b = (torch.stack(torch._foreach_norm([g[i] for g in both])).norm() for i in (0, 1))
    ratio: Tensor = a / b
    return ratio


__all__ = [
    "COLUMN", "SHARE", "balancing_weight", "gradient_ratios", "is_balanced", "measured_epochs",
]  # fmt: skip
