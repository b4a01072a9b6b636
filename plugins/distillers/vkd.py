"""Orthogonal projection (Miles, Elezi, Deng 2024): features through a projection that keeps their angles.

The projection is parametrised by Householder reflections, as torch's own `orthogonal` is, and so stays orthogonal
under any optimiser and weight decay. The paper adds Hinton's loss: combine as `logits+vkd`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def orthonormal(reflectors: Tensor) -> Tensor:
    """The first k columns of a product of k Householder reflections.

    Args:
        reflectors: [n, k] with n >= k; what is on and above the diagonal has no effect.

    Returns:
        Q [n, k] with Q^T Q = I.
    """
    below = reflectors.tril(-1)
    basis: Tensor = torch.linalg.householder_product(below, 2 / (1 + below.square().sum(0)))
    return basis


def projected_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_d of the smooth L1 distance between the student and LayerNorm(f_t), without scale and shift.

    Args:
        student: projected embeddings [B, D].
        teacher: embeddings [B, D].

    Returns:
        [B], each >= 0. Invariant to scale and shift of a teacher's row.

    Source: Miles, Elezi, Deng, arXiv 2403.06213, and the authors' code (roymiles/vkd).
    """
    wanted = F.layer_norm(teacher, teacher.shape[1:])
    return F.smooth_l1_loss(student, wanted, reduction="none").mean(1)


class VkD(Distiller):
    """Features through a trained orthogonal projection, against the teacher's normalised ones."""

    name = "vkd"
    source = "Miles, Elezi, Deng, CVPR 2024, arXiv 2403.06213"
    needs = Needs(student=("embedding",), teacher=("embedding",), trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the authors'.", ge=0, search=(0.01, 100.0), log=True)

    params: Params

    def setup(self, pair: PairShapes) -> None:
        given, wanted = pair.student_embedding, pair.teacher_embedding
        if given is None or wanted is None:
            raise IncompatibleError("vkd reads embeddings, but the student or the teacher has none.")
        self.wider = wanted > given
        self.reflectors = nn.Parameter(torch.randn(max(given, wanted), min(given, wanted)))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        basis = orthonormal(self.reflectors)
        projected = student.embedding @ (basis.T if self.wider else basis)
        return {"feature": projected_loss(projected, teacher.embedding)}
