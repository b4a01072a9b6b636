"""Simple recipe distillation: batch-normalised features through a linear projector (Miles, Mikolajczyk 2024)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError

EPS = 1e-12


def log_power_loss(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """2 log sum |f_s - f_t|^e over all elements: large differences dominate, and the logarithm dampens them.

    Args:
        student, teacher: projected, normalised embeddings [B, D].
        exponent: e >= 1.

    Returns:
        A scalar, bounded below by 2 log 1e-12 (at student = teacher) instead of -infinity.

    Source: Miles and Mikolajczyk, arXiv 2303.11098, with the factor of torchdistill (3e4373c).
    """
    return 2 * ((student - teacher).abs().pow(exponent).sum() + EPS).log()


class SRD(Distiller):
    """A linear projection of the student against the teacher, both batch-normalised; plus KL of the classes."""

    name = "srd"
    source = "Miles, Mikolajczyk, AAAI 2024, arXiv 2303.11098"
    needs = Needs(
        student=("logits", "embedding"),
        teacher=("logits", "embedding"),
        min_batch=2,
        trainable=True,
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        exponent: float = param(4.0, "e: higher emphasises larger differences.", ge=1, le=8, search=(1.0, 6.0))
        divergence: float = param(
            1.0, "Factor on KL(teacher || student) at temperature 1.", ge=0, search=(0.0, 4.0)
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        width = pair.teacher_embedding
        norms = (nn.BatchNorm1d(width, eps=1e-4, affine=False) for _ in "st")
        self.project = nn.Linear(pair.student_embedding, width)
        self.norm_s, self.norm_t = norms

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        f_s, f_t = self.norm_s(self.project(student.embedding)), self.norm_t(teacher.embedding)
        log_p_s, log_p_t = student.logits.log_softmax(1), teacher.logits.log_softmax(1)
        kl = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1)
        feature = log_power_loss(f_s, f_t, self.params.exponent)
        return {"feature": feature, "kl": self.params.divergence * kl}
