"""What distillers of logits share: separating one class from the others, and a linear warm-up."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import Progress


def others(values: Tensor, classes: Tensor) -> Tensor:
    """Every row without one of its columns: [B, K] and [B] int64 -> [B, K - 1], the order kept."""
    columns = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, columns + (columns >= classes[:, None]).long())


def one_against_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """[B, K] and [B] int64 -> [B, 2]: log p_c and log(1 - p_c), finite where p_c rounds to 1."""
    log_p = logits.log_softmax(1)
    return torch.cat([log_p.gather(1, classes[:, None]), others(log_p, classes).logsumexp(1, keepdim=True)], 1)


def ramp(progress: Progress, share: float) -> float:
    """0 at the first step, 1 from `share` of training on; always 1 where `share` is 0."""
    return 1.0 if share <= 0 else min(1.0, progress.fraction / share)
