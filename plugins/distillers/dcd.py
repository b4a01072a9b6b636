"""Discriminative and consistent distillation: in-batch InfoNCE with a learned scale, both ways alike.

The paper adds a learned bias to all similarities; it cancels in every softmax, so there is none here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError

LARGEST_SCALE = 10.0


def similarities(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """scale <n(f_s,i), n(f_t,j)>, [B, B], of projected embeddings [B, D]."""
    return scale * (F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T)


def discriminative_loss(logits: Tensor) -> Tensor:
    """-log softmax_j(S_ij) at j = i: a student row must recognise its own teacher row.

    Args:
        logits: S [B, B].

    Returns:
        [B], each >= 0.

    Source: Giakoumoglou and Stathaki, arXiv 2407.11802.
    """
    return -logits.log_softmax(1).diagonal()


def consistency_loss(logits: Tensor) -> Tensor:
    """KL(softmax_j S_ji || softmax_j S_ij): what the teacher's row i sees among students, and the reverse.

    Args:
        logits: S [B, B].

    Returns:
        [B], each >= 0, zero where S is symmetric.

    Source: Giakoumoglou and Stathaki, arXiv 2407.11802.
    """
    rows, columns = logits.log_softmax(1), logits.T.log_softmax(1)
    return F.kl_div(rows, columns, reduction="none", log_target=True).sum(1)


class DCD(Distiller):
    """InfoNCE with a learned scale, plus agreement of the two directions of comparison."""

    name = "dcd"
    source = "Giakoumoglou, Stathaki 2024, arXiv 2407.11802"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        consistency: float = param(0.5, "alpha: factor on the agreement.", ge=0, search=(0.0, 2.0))
        dim: int = param(128, "Width of the projections.", ge=1, search=[64, 128, 256])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        self.embed_s = nn.Linear(pair.student_embedding, self.params.dim)
        self.embed_t = nn.Linear(pair.teacher_embedding, self.params.dim)
        self.log_scale = nn.Parameter(torch.ones(()))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        logits = similarities(self.embed_s(student.embedding), self.embed_t(teacher.embedding), scale)
        return {
            "discriminative": discriminative_loss(logits),
            "consistent": self.params.consistency * consistency_loss(logits),
        }
