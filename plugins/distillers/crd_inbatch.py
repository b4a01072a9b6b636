"""Contrastive representation distillation within the batch: InfoNCE, without a memory bank (after Tian 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def info_nce(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-log softmax_j(<n(f_s,i), n(f_t,j)> / tau) at j = i: a student's row must recognise its own teacher row.

    Args:
        student, teacher: projected embeddings [B, D] of the same cells, row by row.
        temperature: tau > 0.

    Returns:
        [B], each >= 0; log B where all rows are alike, 0 with a single row.

    Source: van den Oord et al., arXiv 1807.03748, between networks as in Tian et al., arXiv 1910.10699.
    """
    logits = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")


class CRDInBatch(Distiller):
    """InfoNCE of student against teacher among the cells of the batch, through learned projections.

    Other cells of the same class count as negatives; `crd` leaves them out, and remembers all cells.
    """

    name = "crd_inbatch"
    source = "after Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        temperature: float = param(0.07, "tau: lower sharpens.", gt=0, le=10, search=(0.02, 0.5), log=True)
        dim: int = param(128, "Width of the projections.", ge=1, search=[64, 128, 256])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        self.embed_s = nn.Linear(pair.student_embedding, self.params.dim)
        self.embed_t = nn.Linear(pair.teacher_embedding, self.params.dim)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        z_s, z_t = self.embed_s(student.embedding), self.embed_t(teacher.embedding)
        return {"info_nce": info_nce(z_s, z_t, self.params.temperature)}
