"""A moving average of the student's weights, as a teacher (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from wbcbench.contracts import Fusion, Outputs


class Average(nn.Module):
    """A copy of a fusion that follows it: weights exponentially, buffers at once. Always in eval mode.

    Its state is saved with the training, so that a resumed run goes on with the same average.
    """

    def __init__(self, fusion: Fusion, decay: float) -> None:
        """`decay`: share of the old average kept per step, in [0, 1)."""
        super().__init__()
        self.copy = copy.deepcopy(fusion).requires_grad_(False)
        self.decay = decay
        self.register_buffer("steps", torch.zeros(()))
        self.steps: Tensor

    @torch.no_grad()
    def update(self, fusion: Fusion) -> None:
        """One step: early on the average forgets faster, min(decay, 1 - 1 / (steps + 1))."""
        self.steps += 1
        keep = (1 - 1 / (self.steps + 1)).clamp(max=self.decay)
        for mine, theirs in zip(self.copy.parameters(), fusion.parameters(), strict=True):
            mine.mul_(keep).add_(theirs * (1 - keep))
        for old, new in zip(self.copy.buffers(), fusion.buffers(), strict=True):
            old.copy_(new)

    @torch.no_grad()
    def forward(self, images: dict[str, Tensor], present: Tensor | None) -> Outputs:
        """What the average says of a batch."""
        self.copy.eval()
        outputs: Outputs = self.copy(images, present)
        return outputs
