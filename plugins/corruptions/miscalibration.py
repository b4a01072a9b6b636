"""An instrument that is calibrated otherwise."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption


class Miscalibration(Corruption):
    """Another instrument: each number's gain and offset change, both by up to strength, equally for all cells."""

    name = "miscalibration"
    source = "Kalina et al., Leukemia 26:1986 (2012): what EuroFlow standardises"
    reads = "vectors"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        gain, offset = (
            strength * (draws.shared(f"calibration {what}", x.shape[1]) * 2 - 1) for what in ("gain", "offset")
        )
        return x * (1 + gain) + offset
