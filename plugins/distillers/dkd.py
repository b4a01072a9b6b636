"""Decoupled distillation: the label's class and the others separately (Zhao et al. 2022).

Defaults are those of CIFAR-100; for ImageNet the authors' code has T 1, beta 0.5 and a warm-up of one epoch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers._parts import one_against_rest, others, ramp

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def target_class_kd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """TCKD: T^2 KL([p_t,y; 1 - p_t,y] || [p_s,y; 1 - p_s,y]), p = softmax(z / T).

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0, zero where student = teacher.

    Source: Zhao et al., arXiv 2203.08679, eq. 7.
    """
    s, t = (one_against_rest(z / temperature, labels) for z in (student, teacher))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


def non_target_class_kd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NCKD: T^2 KL over the softmax of the K - 1 classes other than y.

    Args:
        student: logits [B, K], K >= 2; with two classes it vanishes.
        teacher: logits [B, K].
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0, zero where student = teacher. KD = TCKD + (1 - p_t,y) NCKD.

    Source: Zhao et al., arXiv 2203.08679, eq. 7.
    """
    s, t = ((others(z, labels) / temperature).log_softmax(1) for z in (student, teacher))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


class DKD(Distiller):
    """Hinton's loss split in two: confidence in the label, and the distribution over the other classes."""

    name = "dkd"
    source = "Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679"
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
        alpha: float = param(1.0, "Factor on the label's class against the rest.", ge=0, search=(0.0, 4.0))
        beta: float = param(8.0, "Factor on the other classes.", ge=0, search=(0.5, 16.0), log=True)
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)
        warmup: float = param(
            20 / 240, "Share of training over which the loss grows linearly from 0.", ge=0, le=1, search=(0.0, 0.3)
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, y = self.params, student.labels
        assert y is not None
        grown = ramp(progress, p.warmup)
        return {
            "target": grown * p.alpha * target_class_kd(student.logits, teacher.logits, y, p.temperature),
            "others": grown * p.beta * non_target_class_kd(student.logits, teacher.logits, y, p.temperature),
        }
