"""my_method: state in one line what it imitates.

Start from here. The contract is `wbcbench.contracts.Corruption`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption, Parameters, param


class MyMethod(Corruption):
    """Debris: some pixels, all channels of them, show a bright spot."""

    name = "my_method"
    source = ""  # where the damage is described, shown by `wbcbench show`
    reads = "images"  # [B, C, S, S]; "vectors": [B, F]; "both"
    strengths = (0.02, 0.05, 0.1, 0.2, 0.4)  # the five severities: here, shares of the pixels

    class Params(Parameters):
        # Set by `--corruption my_method:brightness=3`.
        brightness: float = param(2.0, "Of a spot, in standard deviations of the training cells.", gt=0)

    params: Params

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        # x is normalised. Random numbers come from `draws` alone: a cell is always damaged in the same way.
        side = x.shape[-1]
        hit = draws.uniform("where", side * side).view(-1, 1, side, side) < strength
        return torch.where(hit, self.params.brightness, x)
