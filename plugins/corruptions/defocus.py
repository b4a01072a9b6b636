"""Defocus blur."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.corruptions._filters import depthwise, disk

from wbcbench.contracts import CellDraws, Corruption


class Defocus(Corruption):
    """Defocus blur: a disk of radius 0.5 px (which changes nothing) + strength x 1/12 of the side."""

    name = "defocus"
    source = "Hendrycks and Dietterich, ICLR 2019"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return depthwise(x, disk(0.5 + strength * x.shape[-1] / 12, x))
