"""Mean teacher: consistency with a moving average of the student's own weights (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of class probabilities, mean over classes.

    Args:
        student, teacher: logits [B, K].

    Returns:
        [B] in [0, 2 / K], zero where both agree.

    Source: Tarvainen and Valpola, arXiv 1703.01780, section 3 (mean squared error on softmax).
    """
    return (F.softmax(student, 1) - F.softmax(teacher, 1)).pow(2).mean(1)


def ramp_up(fraction: float, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = fraction / length, 1 from `length` on. Source: the same, appendix."""
    if length == 0 or fraction >= length:
        return 1.0
    return math.exp(-5 * (1 - fraction / length) ** 2)


class MeanTeacher(Distiller):
    """Consistency with a moving average of the student's weights, ramped up.

    The paper shows student and average differently noised images; here both see the same view. The
    average runs in training mode, as theirs does: it normalises by each batch.
    """

    name = "mean_teacher"
    source = "Tarvainen, Valpola, NeurIPS 2017, arXiv 1703.01780"
    needs = Needs(taught_by="average", schedule=True, matches="online")

    class Params(DistillerParams):
        weight: float = param(
            100.0, "Factor on the loss; the paper's for CIFAR-10.", ge=0, search=(1.0, 300.0), log=True
        )
        decay: float = param(0.99, "Share of the average kept per step.", ge=0, lt=1, search=[0.9, 0.99, 0.999])
        ramp: float = param(0.3, "Share of training over which the weight rises.", ge=0, le=1, search=(0.0, 0.6))

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        rise = ramp_up(progress.fraction, self.params.ramp)
        return {"consistency": consistency(student.logits, teacher.logits) * rise}
