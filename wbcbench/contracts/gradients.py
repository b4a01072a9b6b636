"""The shortest vector in the hull of several gradients: what policies and routings that reconcile losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def min_norm(gram: Tensor, steps: int = 32) -> Tensor:
    """Weights on the simplex that minimise ||sum_i a_i g_i||^2: exact for two, Frank-Wolfe for more.

    Args:
        gram: [n, n], <g_i, g_j>; n >= 2.
        steps: of Frank-Wolfe, started from equal weights; line search is exact.

    Returns:
        [n] >= 0 with sum 1.

    Source: Desideri 2012; Sener, Koltun, NeurIPS 2018, arXiv 1810.04650, algorithm 2.
    """
    n = len(gram)
    if n == 2:
        a = ((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]).clamp(min=1e-20)).clamp(0, 1)
        return torch.stack([a, 1 - a])
    weights = torch.full((n,), 1.0 / n, dtype=gram.dtype, device=gram.device)
    position = torch.arange(n, device=gram.device)
    for _ in range(steps):
        corner = (position == (gram @ weights).argmin()).to(gram.dtype)  # indexing would wait for the device
        way = corner - weights
        share = (-(way @ gram @ weights) / (way @ gram @ way).clamp(min=1e-20)).clamp(0, 1)
        weights = weights + share * way
    return weights
