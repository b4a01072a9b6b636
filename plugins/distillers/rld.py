"""Refined logit distillation (Sun et al. 2024): the label decides which parts of the teacher's output are used.

Defaults are those of CIFAR-100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers._parts import one_against_rest, ramp

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def sample_confidence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SCD: T^2 KL([m; 1 - m] || [p_s,y; 1 - p_s,y]), m = max_c p_t,c, p = softmax(z / T).

    The student's probability of the label should equal the teacher's confidence, whichever class that is in.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0; zero at student = teacher only where the teacher's first class is y.

    Source: Sun et al., arXiv 2408.07703, section 4.
    """
    s = one_against_rest(student / temperature, labels)
    t = one_against_rest(teacher / temperature, teacher.argmax(1))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


def masked_correlation(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """MCD: T^2 KL over the softmax of the classes with z_t,c < z_t,y (strictly).

    Args:
        student: logits [B, K].
        teacher: logits [B, K]; classes that it ranks at or above the label are not taught.
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0, zero where student = teacher and where fewer than two classes remain.

    Source: Sun et al., arXiv 2408.07703, section 4.
    """
    drop = teacher >= teacher.gather(1, labels[:, None])
    nothing = torch.finfo(student.dtype).min / 4
    s, t = (
        (z / temperature).masked_fill(drop, nothing).log_softmax(1).masked_fill(drop, 0)
        for z in (student, teacher)
    )
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


class RLD(Distiller):
    """The teacher's confidence moved to the label, and its ranking below the label."""

    name = "rld"
    source = "Sun et al. 2024, arXiv 2408.07703"
    needs = Needs(labels=True, schedule=True, min_classes=3)

    class Params(DistillerParams):
        weight: float = param(
            0.1,
            "Factor on the loss; the paper has 1, which outweighs the task loss where classes and epochs are few.",
            ge=0,
            search=(0.01, 10.0),
            log=True,
            paper=1.0,
        )
        alpha: float = param(1.0, "Factor on the confidence.", ge=0, search=(0.0, 4.0))
        beta: float = param(8.0, "Factor on the classes below the label.", ge=0, search=(0.5, 16.0), log=True)
        temperature: float = param(
            4.0, "T of the classes below.", gt=0, le=100, search=(1.0, 20.0), log=True, when="beta != 0"
        )
        alpha_temperature: float = param(
            1.0, "T of the confidence.", gt=0, le=100, search=(0.5, 8.0), log=True, when="alpha != 0"
        )
        warmup: float = param(
            20 / 240, "Share of training over which the loss grows linearly from 0.", ge=0, le=1, search=(0.0, 0.3)
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, s, t, y = self.params, student.logits, teacher.logits, student.labels
        assert y is not None
        grown = ramp(progress, p.warmup)
        return {
            "confidence": grown * p.alpha * sample_confidence(s, t, y, p.alpha_temperature),
            "correlation": grown * p.beta * masked_correlation(s, t, y, p.temperature),
        }
