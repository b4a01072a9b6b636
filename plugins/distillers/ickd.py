"""Inter-channel correlation: how similar each channel is to every other one (Liu et al.)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages

EPS = 1e-12


def channel_similarity(maps: Tensor) -> Tensor:
    """Rows of F F^T, F [B, C, H W], each of length 1; [B, C, H, W] -> [B, C, C].

    The row of a channel that is zero everywhere has no direction: it is zero, without a gradient.
    """
    flat = maps.flatten(2)
    gram = torch.bmm(flat, flat.transpose(1, 2))
    square = gram.pow(2).sum(2, keepdim=True)
    some = square > EPS**2
    return torch.where(some, gram * torch.where(some, square, 1).rsqrt(), 0)


def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||S_s - S_t||_F^2 / (C B) per sample, S = `channel_similarity`.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W]; height and width may differ.

    Returns:
        [B], in [0, 4 / B], zero where student = teacher. Divided by the batch size in addition to the
        mean over samples, as in the reference code: half the batch doubles it. Invariant to permuting positions
        (in both alike) and to a factor on a sample.

    Source: Liu et al., ICCV 2021, "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge
    Distillation", arXiv 2202.03680, equation 4, with the normalisation of the reference code.
    """
    distance = (channel_similarity(student) - channel_similarity(teacher)).pow(2).sum((1, 2))
    return distance / (student.shape[1] * student.shape[0])


class ChannelCorrelation(Distiller):
    """Inter-channel correlation: squared distance of the normalised channel-by-channel Gram matrices."""

    name = "ickd"
    source = "Liu et al., ICCV 2021, arXiv 2202.03680, eq. 4"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            500.0, "Factor on the loss; that of the reference code.", ge=0, search=(5.0, 5000.0), log=True
        )
        stages: Literal["last", "all"] = param(
            "last", "The deepest stage (the paper's), or all paired ones.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, which=self.params.stages)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": correlation_loss(s, t) for i, (s, t) in enumerate(pairs)}
