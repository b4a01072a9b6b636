"""Numbers that are missing."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class Drop(Corruption):
    """Each number is missing with probability `strength`, and is then imputed as in training."""

    name = "drop"
    source = "Rubin, Biometrika 63:581 (1976): missing completely at random"
    reads = "vectors"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        if draws.imputed is None:
            raise ValueError("there is nothing to impute images with")
        return torch.where(draws.uniform("drop", x.shape[1]) < strength, draws.imputed, x)
