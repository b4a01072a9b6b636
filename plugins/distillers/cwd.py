"""Channel-wise distillation: where in the image each channel fires, as a distribution (Shu et al.)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 mean_c KL(p_t,c || p_s,c) per sample, p_c = softmax over positions of F_c / T.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W].
        temperature: T > 0; higher compares wider areas.

    Returns:
        [B], each >= 0, zero where student = teacher. Invariant to adding a constant to a channel.

    Source: Shu et al., ICCV 2021, arXiv 2011.13256, equations 5 and 6.
    """
    log_p_s = F.log_softmax(student.flatten(2) / temperature, 2)
    log_p_t = F.log_softmax(teacher.flatten(2) / temperature, 2)
    divergence = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(2)
    return divergence.mean(1) * temperature**2


class ChannelWise(Distiller):
    """Channel-wise distillation: divergence of each channel's distribution over positions."""

    name = "cwd"
    source = "Shu et al., ICCV 2021, arXiv 2011.13256, eq. 5-6"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            10.0, "Factor on the loss; that of MMRazor for maps.", ge=0, search=(0.1, 100.0), log=True
        )
        temperature: float = param(
            1.0, "T: higher compares wider areas.", gt=0, le=100, search=(0.5, 10.0), log=True
        )
        stages: Literal["last", "all"] = param(
            "last", "The deepest stage (the paper's), or all paired ones.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, which=self.params.stages)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": channel_divergence(s, t, self.params.temperature) for i, (s, t) in enumerate(pairs)}
