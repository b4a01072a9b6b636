"""Relational representation distillation: similarities to a queue of teacher vectors (Giakoumoglou 2024).

The public code needs a queue that the batch size divides, normalises the queue's initial columns instead of its
rows, and trains a projection of the teacher that never receives a gradient. Here any batch size fits, rows have
length 1, and the teacher's projection is random and fixed, as it is there in effect.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def rrd_loss(student: Tensor, teacher: Tensor, queue: Tensor, tau_s: float, tau_t: float) -> Tensor:
    """-sum_k softmax(f_t Q^T / tau_t)_k log softmax(f_s Q^T / tau_s)_k: cross-entropy of similarities.

    Args:
        student, teacher: unit embeddings [B, D]; no gradient is expected to flow into the teacher's.
        queue: unit vectors [Q, D], constant; its order does not matter.
        tau_s, tau_t: temperatures > 0.

    Returns:
        [B], each >= the entropy of the teacher's distribution.

    Source: Giakoumoglou and Stathaki, arXiv 2407.12073.
    """
    target = (teacher @ queue.T / tau_t).softmax(1)
    return -(target * (student @ queue.T / tau_s).log_softmax(1)).sum(1)


class RRD(Distiller):
    """Softened similarities of a cell to recently seen teacher vectors, student against teacher."""

    name = "rrd"
    source = "Giakoumoglou, Stathaki 2024, arXiv 2407.12073"
    needs = Needs(student=("embedding",), teacher=("embedding",), trainable=True, matches="relational")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        student_temperature: float = param(
            0.02, "tau_s: lower sharpens.", gt=0, le=10, search=(0.01, 0.2), log=True
        )
        teacher_temperature: float = param(
            0.1, "tau_t: lower sharpens.", gt=0, le=10, search=(0.02, 0.5), log=True
        )
        queue: int = param(
            16384, "Teacher vectors remembered, the newest first.", ge=1, search=[1024, 4096, 16384]
        )
        dim: int = param(128, "Width of the projections.", ge=1, search=[64, 128, 256])

    params: Params
    queue: Tensor

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        self.embed_s = nn.Linear(pair.student_embedding, self.params.dim)
        self.embed_t = nn.Linear(pair.teacher_embedding, self.params.dim).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(self.params.queue, self.params.dim), dim=1))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        f_s = F.normalize(self.embed_s(student.embedding), dim=1)
        f_t = F.normalize(self.embed_t(teacher.embedding), dim=1).detach()
        queue = torch.cat([f_t, self.queue])[: max(len(f_t), len(self.queue))]
        if self.training:
            self.queue.copy_(queue[: len(self.queue)])
        p = self.params
        return {"relation": rrd_loss(f_s, f_t, queue, p.student_temperature, p.teacher_temperature)}
