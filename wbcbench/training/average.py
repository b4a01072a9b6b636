"""A moving average of the student's weights, as a teacher (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from wbcbench.contracts import Fusion, Outputs


class Average(nn.Module):
    """A copy of a fusion whose weights follow exponentially. It runs in training mode, as the authors' code does.

    Averaged weights under the student's own batch-norm statistics are no network at all: on 40-pixel cells the
    average then taught noise. So it normalises by each batch and keeps running statistics of its own. Its
    state is saved with the training, so that a resumed run goes on with the same average.
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

    @torch.no_grad()
    def forward(self, images: dict[str, Tensor], present: Tensor | None) -> Outputs:
        """What the average says of a batch."""
        self.copy.train()
        outputs: Outputs = self.copy(images, present)
        return outputs
