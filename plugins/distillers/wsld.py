"""Weighted soft labels (Zhou et al. 2021): a sample counts less where the student already beats the teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def sample_weights(student: Tensor, teacher: Tensor, labels: Tensor, eps: float = 1e-7) -> Tensor:
    """w = 1 - exp(-CE(z_s, y) / (CE(z_t, y) + eps)), at temperature 1.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.
        eps: keeps the ratio finite where the teacher is certain.

    Returns:
        [B] in [0, 1], constant for the gradient: near 0 where the student is right and the teacher is not.

    Source: Zhou et al., arXiv 2102.00650.
    """
    with torch.no_grad():
        s, t = (F.cross_entropy(z, labels, reduction="none") for z in (student, teacher))
        return -torch.expm1(-s / (t + eps))


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-T^2 sum_c p_t log p_s, p = softmax(z / T), per sample: [B, K] and [B, K] -> [B]."""
    return -((teacher / temperature).softmax(1) * (student / temperature).log_softmax(1)).sum(1) * temperature**2


class WSLD(Distiller):
    """Softened cross-entropy, weighted by the lag of the student behind the teacher."""

    name = "wsld"
    source = "Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, ICLR 2021, arXiv 2102.00650"
    needs = Needs(labels=True)

    class Params(DistillerParams):
        weight: float = param(2.5, "Factor on the loss; the paper's.", ge=0, search=(0.25, 25.0), log=True)
        temperature: float = param(2.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        weights = sample_weights(student.logits, teacher.logits, student.labels)
        return {"soft": weights * soft_cross_entropy(student.logits, teacher.logits, self.params.temperature)}
