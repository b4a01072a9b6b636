"""Curriculum temperature (Li et al. 2023): the temperature is learned against the student.

The global variant: one temperature for all samples. It rises along the loss, by a reversed gradient whose
strength grows by a cosine: distillation starts easy and becomes harder. Several teachers are averaged at T = 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers._parts import ramp

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param


def softened_kl(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """T^2 KL(p_t || p_s) with gradients to T as well, through both softmaxes and through T^2.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        temperature: T > 0, a scalar tensor.

    Returns:
        [B], each >= 0, zero where student = teacher.

    Source: Li et al., arXiv 2211.16231.
    """
    s, t = ((z / temperature).log_softmax(1) for z in (student, teacher))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """x, with its gradient multiplied by -strength: what minimises the loss elsewhere maximises it here."""
    fixed = x.detach()
    return fixed + strength * (fixed - x)


class CTKD(Distiller):
    """Hinton's loss at a learned temperature that makes the task harder as training proceeds."""

    name = "ctkd"
    source = "Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023, arXiv 2211.16231"
    needs = Needs(schedule=True, trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        lowest: float = param(1.0, "Lowest temperature.", gt=0, le=100, search=(0.5, 4.0), log=True)
        span: float = param(20.0, "Highest minus lowest temperature.", gt=0, le=100, search=(4.0, 40.0), log=True)
        warmup: float = param(
            10 / 240, "Share of training until the reversal has full strength.", ge=0, le=1, search=(0.0, 0.5)
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.theta = nn.Parameter(torch.ones(()))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        strength = (1 - math.cos(math.pi * ramp(progress, self.params.warmup))) / 2
        temperature = self.params.lowest + self.params.span * reversed_gradient(self.theta, strength).sigmoid()
        return {"kl": softened_kl(student.logits, teacher.logits, temperature)}
