"""Similarity-preserving distillation as torchdistill computes it: rows divided by their L1 norm.

The paper's rows have L2 norm 1 (`sp`). Both are published as "SP", and their values differ by a factor of
about B, so results at the same weight cannot be compared.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def sp_l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of similarity matrices G = f f^T whose rows have L1 norm 1.

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.

    Returns:
        [B]: sum_j (G_s - G_t)_ij^2 / B. Invariant to rotation and scale of either side.

    Source: torchdistill (3e4373c), `SPKDLoss`.
    """
    g_s, g_t = (F.normalize(f @ f.T, p=1.0, dim=1) for f in (student, teacher))
    return (g_s - g_t).pow(2).mean(1)


class SPTorchdistill(Distiller):
    """Similarities between the samples of a batch, each row normalised by its L1 norm."""

    name = "sp_td"
    source = "torchdistill's form of Tung, Mori, ICCV 2019, arXiv 1907.09682"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(3000.0, "Factor on the loss; the paper's.", ge=0, search=(30.0, 300000.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        return {"similarity": sp_l1_loss(student.embedding, teacher.embedding)}
