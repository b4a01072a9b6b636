"""Inputs that anyone can recompute: closed forms in float64, for golden values of distillers.

4 samples, 5 classes, 6 features, maps [4, 3, 4, 4]; no random numbers. Golden values on them were computed
with the reference implementations named beside each value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid(*shape: int) -> list[Tensor]:
    """Index tensors of a shape, float64: one per axis."""
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    return list(torch.meshgrid(*axes, indexing="ij"))


def closed_forms() -> dict[str, Tensor]:
    """All inputs by name; `z` logits, `f` embeddings, `F` maps, `_s` student, `_t` teacher."""
    i, j = grid(4, 5)
    n, k = grid(4, 6)
    b, c, h, w = grid(4, 3, 4, 4)
    head_row, head_column = grid(5, 6)
    bank, dim = grid(8, 6)
    f_t = torch.cos(0.8 * n - 0.7 * k)
    mem_t = F.normalize(torch.cos(0.7 * bank - 0.8 * dim + 0.13 * bank * dim), dim=1)
    return {
        "y": torch.tensor([0, 2, 4, 1]),
        "z_s": torch.sin(1.7 * i + 0.9 * j),
        "z_t": 2 * torch.cos(0.6 * i - 1.3 * j),
        "z_t2": 2 * torch.cos(0.9 * i + 0.7 * j),
        "z_t3": 1.5 * torch.sin(0.4 * i - 1.1 * j + 0.5),
        "f_s": torch.sin(0.5 * n + 1.1 * k),
        "f_t": f_t,
        "f_t2": torch.cos(0.3 * n + 0.9 * k),
        "f_t3": torch.sin(1.2 * n - 0.5 * k + 0.4),
        "F_s": torch.sin(0.3 * b + 0.7 * c + 1.1 * h + 0.5 * w),
        "F_t": torch.cos(0.9 * b - 0.4 * c + 0.6 * h - 1.2 * w),
        "F2_s": torch.sin(0.2 * b - 0.5 * c + 0.4 * h + 0.9 * w),
        "F2_t": torch.cos(0.1 * b + 0.8 * c - 0.3 * h + 0.7 * w),
        **{f"W{m}": 0.5 * torch.cos(0.6 * head_row + 0.4 * head_column + 0.8 * m) for m in (1, 2, 3)},
        "mem_s": F.normalize(torch.sin(0.9 * bank + 0.6 * dim + 0.11 * bank * dim), dim=1),
        "mem_t": mem_t,
        "crd_idx": torch.tensor([[0, 1, 2, 3], [5, 0, 7, 4], [2, 6, 1, 0], [7, 3, 5, 6]]),
        "logvar": 0.3 * torch.sin(0.6 * n - 0.9 * k),
        "bn_weight": torch.tensor([0.8, -1.2, 0.3], dtype=torch.float64),
        "bn_bias": torch.tensor([0.1, -0.4, 1.5], dtype=torch.float64),
        "queue": torch.cat([F.normalize(f_t, dim=1), mem_t[:4]]),
    }
