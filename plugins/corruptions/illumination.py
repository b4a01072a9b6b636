"""Uneven illumination."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class Illumination(Corruption):
    """Uneven illumination: a linear gradient in a random direction and a gain, both up to strength."""

    name = "illumination"
    source = "Smith et al., Nature Methods 12:404 (2015): what CIDRE corrects"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        angle = draws.uniform("shade")[:, 0] * 2 * math.pi
        gain = 1 + strength * (draws.uniform("gain")[:, 0] * 2 - 1)
        at = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        shade = (
            torch.cos(angle)[:, None, None] * at[None, None] + torch.sin(angle)[:, None, None] * at[None, :, None]
        )
        return x * gain[:, None, None, None] + strength * shade[:, None]
