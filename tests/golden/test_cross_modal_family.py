"""Distillers across modalities against direct permutation, and their invariants."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.testing import closed_forms

C = closed_forms()
F_S, F_T = C["f_s"], C["f_t"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
