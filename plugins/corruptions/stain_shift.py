"""Stain variation."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class StainShift(Corruption):
    """Stain variation: each channel's gain and offset change, both by up to strength."""

    name = "stain_shift"
    source = "Tellez et al., Medical Image Analysis 58:101544 (2019)"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        gain = 1 + strength * (draws.uniform("stain gain", x.shape[1]) * 2 - 1)
        offset = strength * (draws.uniform("stain offset", x.shape[1]) * 2 - 1)
        return x * gain[..., None, None] + offset[..., None, None]
