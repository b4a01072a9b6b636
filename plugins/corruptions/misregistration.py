"""Modalities that are shifted against each other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class Misregistration(Corruption):
    """Shift of the modality against the others by strength x 1/6 of the side, in a random direction."""

    name = "misregistration"
    source = "wbcbench: images of one cell by two cameras, or before and after staining"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        angle = draws.uniform("shift")[:, 0] * 2 * math.pi
        theta = torch.zeros(len(x), 2, 3, device=x.device, dtype=x.dtype)
        theta[:, 0, 0] = theta[:, 1, 1] = 1
        theta[:, 0, 2], theta[:, 1, 2] = torch.cos(angle) * strength / 3, torch.sin(angle) * strength / 3
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
