"""Variational information distillation: a bound on the information that maps share (Ahn et al.)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages, conv1x1


def variational_loss(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """mean_chw 1/2 [(F_t - mu)^2 / v_c + log v_c] per sample: the likelihood of a Gaussian.

    Args:
        mean: mu, what the student's maps predict, [B, C, H, W].
        teacher: maps [B, C, H, W].
        variance: v > 0 per channel, [C].

    Returns:
        [B], bounded below by 1/2 mean_c log v_c (there where mu = F_t; not zero). For a fixed error e_c the
        best variance is the channel's mean squared error.

    Source: Ahn et al., CVPR 2019, arXiv 1904.05835, equations 5 and 6.
    """
    v = variance[:, None, None]
    return ((teacher - mean).pow(2) / v + v.log()).flatten(1).mean(1) / 2


def regressor(given: int, wanted: int) -> nn.Module:
    """[B, given, H, W] -> [B, wanted, H, W]: three 1x1 convolutions with ReLU between."""
    return nn.Sequential(
        nn.Conv2d(given, wanted, 1),
        nn.ReLU(),
        nn.Conv2d(wanted, wanted, 1),
        nn.ReLU(),
        nn.Conv2d(wanted, wanted, 1),
    )


class VariationalInformation(Distiller):
    """Variational information: likelihood of the teacher's maps under a Gaussian that the student's predict.

    The variance of every channel is a trained parameter, part of the checkpoint. It is kept as its distance
    from the start, so weight decay pulls it there.
    """

    name = "vid"
    source = "Ahn et al., CVPR 2019, arXiv 1904.05835, eq. 5-6"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        variance: float = param(5.0, "Variance of every channel at the start.", gt=0, search=(0.1, 10.0), log=True)
        floor: float = param(1e-5, "Added to the variance, so that it stays above zero.", gt=0)
        adapter: Literal["learned", "identity_if_equal"] = param(
            "learned", "Predict the mean by a small network (the paper's), or directly where widths agree."
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=regressor if self.params.adapter == "learned" else conv1x1)
        above = max(self.params.variance - self.params.floor, self.params.floor)
        self.start = above + math.log(-math.expm1(-above))  # softplus(start) = above
        widths = [pair.teacher_maps[t][0] for _, t in self.stages.indices]
        self.raw_variance = nn.ParameterList(torch.zeros(c) for c in widths)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = zip(self.stages(student.maps, teacher.maps), self.raw_variance, strict=True)
        return {
            f"stage{i}": variational_loss(mean, t, F.softplus(self.start + raw) + self.params.floor)
            for i, ((mean, t), raw) in enumerate(pairs)
        }
