"""Margin-aware distillation (Wei et al. 2023): similarities to cells of which the teacher is unsure count more.

Made for a student that lacks modalities of its teacher. The rest of MMANet, which regularises weak
combinations of modalities, is not part of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def uncertainty_shares(logits: Tensor) -> Tensor:
    """H_j / sum_i H_i of a batch, H the entropy at T = 1: logits [B, K] -> [B], summing to 1; even without any."""
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    total = entropy.sum()
    return torch.where(total > 0, entropy / total.clamp_min(1e-12), 1 / len(logits))


def weighted_similarity_loss(student: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
    """B w_j sum_i (G_s - G_t)_ij^2, G = f f^T with rows of L2 norm 1, w the shares of the cells.

    Args:
        student: embeddings [B, *]; the widths may differ.
        teacher: embeddings [B, *].
        shares: w [B], >= 0, summing to 1.

    Returns:
        [B], one for each column j, so that the mean is sum_ij w_j (G_s - G_t)_ij^2. With even shares it is B times
        `sp`. Invariant to rotation and scale of either side.

    Source: the authors' code (shicaiwei123/MMANet-CVPR2023, loss/kd/mad.py); Wei, Luo, Luo, CVPR 2023.
    """
    g_s, g_t = (F.normalize(f @ f.T, dim=1) for f in (student, teacher))
    return len(shares) * shares * (g_s - g_t).square().sum(0)


class MAD(Distiller):
    """Similarities between the samples of a batch, those to cells near the teacher's decision boundary first."""

    name = "mad"
    source = "Wei, Luo, Luo, CVPR 2023 (MMANet), on the embedding"
    needs = Needs(student=("embedding",), teacher=("logits", "embedding"), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(
            1.0, "Factor on the loss; the default of the authors' code.", ge=0, search=(0.1, 100.0), log=True
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        shares = uncertainty_shares(teacher.logits)
        return {"similarity": weighted_similarity_loss(student.embedding, teacher.embedding, shares)}
