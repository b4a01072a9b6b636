"""Customised cross-modal distillation: proxies on both sides, and only cells on which the rankings agree.

The paper also trains the teacher; here it is frozen, and a proxy classifier on its embedding is trained
instead. The available sources do not specify how the parts are weighted: all have equal weight.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers._parts import others
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def kendall_tau(student: Tensor, teacher: Tensor) -> Tensor:
    """Kendall's tau-a of two rankings of the classes: (concordant - discordant) / (K (K - 1) / 2).

    Args:
        student, teacher: logits [B, K], K >= 2.

    Returns:
        [B] in [-1, 1]; 1 where both rank the classes alike. No gradient.
    """
    s, t = ((z[:, :, None] - z[:, None, :]).sign() for z in (student.detach(), teacher.detach()))
    classes = student.shape[1]
    return (s * t).sum((1, 2)) / (classes * (classes - 1))


def both_ways(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """T^2 [KL(a || b) + KL(b || a)] per sample, each side a constant for the other. Logits [B, K] -> [B]."""
    return kd_loss(a, b.detach(), temperature) + kd_loss(b, a.detach(), temperature)


class C2kd(Distiller):
    """Cross-modal distillation through two proxies, on cells whose class rankings agree.

    A proxy is a linear classifier on an embedding. Student and its proxy, and teacher and its proxy, learn
    from each other on all classes; the two proxies on the classes other than the label's. A cell counts only
    where Kendall's tau between student and teacher exceeds `agreement`.
    """

    name = "c2kd"
    source = "Huo, Xu, Guo, Wang, Guo, CVPR 2024 (C2KD); with a frozen teacher"
    needs = Needs(
        student=("logits", "embedding"),
        teacher=("logits", "embedding"),
        labels=True,
        min_classes=3,
        trainable=True,
        matches="online",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(1.0, "T of every soft loss.", gt=0, le=100, search=(1.0, 8.0), log=True)
        agreement: float = param(0.0, "Least Kendall tau of a cell that counts.", ge=-1, le=1, search=(-1.0, 0.8))

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError("c2kd reads embeddings, but the student or the teacher has none.")
        self.student_proxy = nn.Linear(pair.student_embedding, pair.n_classes)
        self.teacher_proxy = nn.Linear(pair.teacher_embedding, pair.n_classes)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        labels, temperature = student.labels, self.params.temperature
        mine, theirs = self.student_proxy(student.embedding), self.teacher_proxy(teacher.embedding)
        counts = (kendall_tau(student.logits, teacher.logits) > self.params.agreement).to(mine.dtype)
        between = both_ways(others(mine, labels), others(theirs, labels), temperature)
        return {
            "student_proxy": counts * both_ways(student.logits, mine, temperature),
            "teacher_proxy": kd_loss(theirs, teacher.logits, temperature),
            "proxies": counts * between,
            "label": F.cross_entropy(mine, labels, reduction="none")
            + F.cross_entropy(theirs, labels, reduction="none"),
        }
