"""Normalised distillation (Yang et al. 2023): the label's probability, and the others normalised to sum to 1."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers._parts import others

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def target_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """-p_t,y log p_s,y at temperature 1.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.

    Returns:
        [B], each >= 0; not zero at student = teacher.

    Source: Yang et al., arXiv 2303.13005, first distillation term.
    """
    column = labels[:, None]
    return -(teacher.softmax(1).gather(1, column) * student.log_softmax(1).gather(1, column))[:, 0]


def non_target_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-T^2 sum_(c != y) q_t,c log q_s,c, q = softmax(z / T) over the classes other than y.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= T^2 times the entropy of q_t, which it reaches at student = teacher.

    Source: Yang et al., arXiv 2303.13005, second distillation term.
    """
    q_t = (others(teacher, labels) / temperature).softmax(1)
    log_q_s = (others(student, labels) / temperature).log_softmax(1)
    return -(q_t * log_q_s).sum(1) * temperature**2


class NKD(Distiller):
    """Cross-entropy on the label's probability and on the normalised other classes."""

    name = "nkd"
    source = "Yang et al., ICCV 2023, arXiv 2303.13005"
    needs = Needs(labels=True, min_classes=3)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        gamma: float = param(1.5, "Factor on the other classes.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(
            1.0, "T of the other classes.", gt=0, le=100, search=(0.5, 8.0), log=True, when="gamma != 0"
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, y = self.params, student.labels
        assert y is not None
        rest = non_target_cross_entropy(student.logits, teacher.logits, y, p.temperature)
        return {"target": target_cross_entropy(student.logits, teacher.logits, y), "others": p.gamma * rest}
