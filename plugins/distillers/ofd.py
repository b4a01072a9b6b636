"""Overhaul of feature distillation: distance to the teacher's maps, except below zero (Heo, Kim et al.)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from wbcbench_plugins.distillers.ab import connector

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages, conv1x1


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """sum_chw (F_s - T)^2 per sample, T = max(F_t, m_c), but nothing where F_s <= T and F_t <= 0.

    Args:
        student: maps before activation, [B, C, H, W], in the teacher's channels.
        teacher: maps before activation, [B, C, H, W].
        margin: m <= 0 per channel, [C]: how negative a silent neuron need be.

    Returns:
        [B], each >= 0, zero where student = max(teacher, margin).

    Source: Heo et al., ICCV 2019, arXiv 1904.01866, equations 1 and 4.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counts = (student > target) | (teacher > 0)
    return (student - target).pow(2).where(counts, 0).flatten(1).sum(1)


def mean_negative(teacher: Tensor) -> Tensor:
    """Margins from a batch of maps: the mean of each channel's negative values, 0 where there are none.

    [B, C, H, W] -> [C], each <= 0.
    """
    negative = teacher.clamp_max(0)
    count = (negative < 0).sum((0, 2, 3)).clamp_min(1)
    return negative.sum((0, 2, 3)) / count


def batch_norm_margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Margins from a batch normalisation: E[x | x < 0] of x ~ N(bias, weight^2), per channel.

    bias - |w| phi(bias / |w|) / Phi(-bias / |w|); -3 |w| where less than 0.001 of x is negative.

    Args:
        weight, bias: of the layer before the activation, [C].

    Returns:
        [C]. Equal to `mean_negative` in the limit of many normal values.

    Source: Heo et al., ICCV 2019, arXiv 1904.01866, equation 3 and the reference code's fallback.
    """
    scale = weight.abs().clamp_min(torch.finfo(weight.dtype).tiny)
    z = bias / scale
    below = torch.special.ndtr(-z)
    density = torch.exp(-z.pow(2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, bias - scale * density / below.clamp_min(1e-3), -3 * scale)


class Overhaul(Distiller):
    """Overhaul of feature distillation: partial squared distance with a margin per channel.

    The paper's margins are the expected negative response under the teacher's batch normalisation, whose
    statistics it takes from the batch by leaving the teacher in training mode. Here the margin is the mean
    negative response in the batch itself: no access to the teacher's layers, which stay in evaluation mode, and no
    assumption on them. Maps after a ReLU have margin 0. Stage i of n counts 2^(i - n + 1), as in the
    reference code.
    """

    name = "ofd"
    source = "Heo et al., ICCV 2019, arXiv 1904.01866, eq. 1-4"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            0.001, "Factor on the loss; the reference code's.", ge=0, search=(1e-5, 0.1), log=True
        )
        adapter: Literal["learned", "identity_if_equal"] = param(
            "learned", "Connect by a learned layer (the paper's), or by none where widths agree."
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=connector if self.params.adapter == "learned" else conv1x1)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {
            f"stage{i}": 2.0 ** (i - len(self.stages) + 1) * partial_distance(s, t, mean_negative(t))
            for i, (s, t) in enumerate(pairs)
        }
