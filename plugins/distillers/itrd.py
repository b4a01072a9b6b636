"""Information-theoretic representation distillation: correlation and a mutual-information kernel (Miles 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError

EPS = 1e-8


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 sum_d |1 - c_d|^(2 alpha), c_d the correlation of feature d over the batch.

    Args:
        student: adapted embeddings [B, D], B >= 2.
        teacher: embeddings [B, D].
        alpha: > 0; higher emphasises the least correlated features.

    Returns:
        A scalar; smallest where every feature of the student rises with the teacher's. As in the reference
        code c_d is divided by B but its deviations by B - 1, so that c_d <= (B - 1)/B and the logarithm is
        finite at student = teacher. Invariant to shift and positive scale of a feature.

    Source: Miles et al., arXiv 2112.00459, in the form of giakoumoglou/distillers.
    """
    batch = len(student)

    def standard(f: Tensor) -> Tensor:
        centred = f - f.mean(0)
        return centred * (centred.pow(2).sum(0) / (batch - 1) + EPS).rsqrt()

    correlation = (standard(student) * standard(teacher)).sum(0) / batch
    return (1 - correlation).pow(2).pow(alpha).sum().log2()


def information_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """sum G_s^2 - sum G_st^2, G Gram matrices of unit rows with trace 1, G_st = G_s o G_t.

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.

    Returns:
        A scalar in (-1, 1): Renyi's entropies of order 2 without their logarithms. Invariant to rotation and
        scale of either side.

    Source: Miles et al., arXiv 2112.00459, in the form of giakoumoglou/distillers.
    """

    def traced(gram: Tensor) -> Tensor:
        return gram / gram.diagonal().sum().clamp(min=EPS)

    g_s, g_t = (n @ n.T for n in (F.normalize(f, dim=1) for f in (student, teacher)))
    return traced(g_s).pow(2).sum() - traced(g_s * g_t).pow(2).sum()


class ITRD(Distiller):
    """Feature-wise correlation with the teacher, plus mutual information of the two Gram matrices."""

    name = "itrd"
    source = "Miles, Rodriguez, Mikolajczyk, BMVC 2022, arXiv 2112.00459"
    needs = Needs(
        student=("embedding",),
        teacher=("embedding",),
        min_batch=2,
        trainable=True,
        matches="relational",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        correlation: float = param(2.0, "Factor on the correlation.", ge=0, search=(0.2, 20.0), log=True)
        information: float = param(0.05, "Factor on the mutual information.", ge=0, search=(0.005, 5.0), log=True)
        alpha: float = param(
            1.5,
            "Higher emphasises the least correlated features.",
            gt=0.5,
            le=10,
            search=(1.0, 3.0),
            when="correlation != 0",
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        self.project = nn.Linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        f_s, f_t = student.embedding, teacher.embedding
        projected = self.project(f_s)
        same = f_s.shape[1] == f_t.shape[1]
        return {
            "correlation": self.params.correlation * correlation_loss(projected, f_t, self.params.alpha),
            "information": self.params.information * information_loss(f_s if same else projected, f_t),
        }
