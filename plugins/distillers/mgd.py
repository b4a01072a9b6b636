"""Masked generative distillation: the teacher's whole map from a part of the student's (Yang et al.).

The paper hides positions; its code for classification hides channels, which is the default here.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def masked(maps: Tensor, noise: Tensor, share: float) -> Tensor:
    """The maps with a random share set to zero: positions in all channels, or channels at all positions.

    Args:
        maps: [B, C, H, W].
        noise: uniform in [0, 1), [B, 1, H, W] to hide positions or [B, C, 1, 1] to hide channels.
        share: which part is hidden, in [0, 1].

    Returns:
        [B, C, H, W].

    Source: Yang et al., ECCV 2022, arXiv 2205.01529, equations 2 and 3.
    """
    return maps.where(noise >= share, 0)


def generation_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """sum_chw (G - F_t)^2 per sample; [B, C, H, W] twice -> [B].

    Source: Yang et al., arXiv 2205.01529, equation 4.
    """
    return (generated - teacher).pow(2).flatten(1).sum(1)


class MaskedGeneration(Distiller):
    """Masked generation: a small network restores the teacher's map from the student's, partly hidden."""

    name = "mgd"
    source = "Yang et al., ECCV 2022, arXiv 2205.01529, eq. 2-4"
    needs = Needs(student=("maps",), teacher=("maps",), draws=True, trainable=True)

    class Params(DistillerParams):
        weight: float = param(
            7e-5, "Factor on the loss, a sum over elements; the authors' for ImageNet.", ge=0,
            search=(1e-6, 1e-2), log=True,
        )  # fmt: skip
        hidden: float = param(
            0.15, "Share that is hidden; the authors' for classification.", ge=0, lt=1, search=(0.05, 0.8)
        )
        unit: Literal["channel", "position"] = param(
            "channel",
            "Hide whole channels (the authors' code for classification) or positions (the paper).",
            search=["channel", "position"],
            when="hidden != 0",
        )
        stages: Literal["last", "all"] = param(
            "last", "The deepest stage (the paper's), or all paired ones.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.key = pair.key
        self.stages = Stages(pair, which=self.params.stages)
        widths = [pair.teacher_maps[t][0] for _, t in self.stages.indices]
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1)) for c in widths
        )

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        found = {}
        pairs = zip(self.generators, self.stages(student.maps, teacher.maps), strict=True)
        for i, (generator, (s, t)) in enumerate(pairs):
            b, c, h, w = s.shape
            shape = (b, c, 1, 1) if self.params.unit == "channel" else (b, 1, h, w)
            noise = progress.draw.uniform(math.prod(shape), f"{self.key}/mgd/{i}").to(s).view(shape)
            found[f"stage{i}"] = generation_loss(generator(masked(s, noise, self.params.hidden)), t)
        return found
