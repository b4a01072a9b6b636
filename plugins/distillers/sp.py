"""Similarity-preserving distillation: similarities of samples, rows of L2 norm 1 (Tung, Mori 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of similarity matrices G = f f^T whose rows have L2 norm 1.

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.

    Returns:
        [B]: sum_j (G_s - G_t)_ij^2 / B, so that the mean is ||G_s - G_t||_F^2 / B^2. Invariant to rotation
        and scale of either side.

    Source: Tung and Mori, arXiv 1907.09682.
    """
    g_s, g_t = (F.normalize(f @ f.T, dim=1) for f in (student, teacher))
    return (g_s - g_t).pow(2).mean(1)


class SP(Distiller):
    """Similarities between the samples of a batch, each row normalised by its L2 norm.

    The paper reads the last stage's map; here it is the embedding.
    """

    name = "sp"
    source = "Tung, Mori, ICCV 2019, arXiv 1907.09682, on the embedding"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(3000.0, "Factor on the loss; the paper's.", ge=0, search=(30.0, 30000.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        return {"similarity": sp_loss(student.embedding, teacher.embedding)}
