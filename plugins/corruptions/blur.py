"""Gaussian blur."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.corruptions._filters import depthwise, gaussian

from wbcbench.contracts import CellDraws, Corruption


class Blur(Corruption):
    """Gaussian blur, sigma = 0.2 px (which changes almost nothing) + strength x 1/16 of the side (4 px of 64)."""

    name = "blur"
    source = "Hendrycks and Dietterich, ICLR 2019"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return depthwise(x, gaussian(0.2 + strength * x.shape[-1] / 16, x))
