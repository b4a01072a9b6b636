"""Gaussian sensor noise, sd = strength."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class Noise(Corruption):
    """Gaussian sensor noise, sd = strength."""

    name = "noise"
    source = "Hendrycks and Dietterich, ICLR 2019"
    reads = "both"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return x + strength * draws.normal("noise", x[0].numel()).view_as(x)
