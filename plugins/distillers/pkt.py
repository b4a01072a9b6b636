"""Probabilistic knowledge transfer: which samples a sample is near to (Passalis, Tefas 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param

EPS = 1e-7


def neighbours(f: Tensor) -> Tensor:
    """q_ij = k_ij / sum_j k_ij with k = (cos(f_i, f_j) + 1) / 2, the sample itself included.

    Args:
        f: embeddings [B, D]; a zero vector has cosine 0 with everything.

    Returns:
        [B, B], rows summing to 1.
    """
    norm = f.pow(2).sum(1, keepdim=True).clamp(min=torch.finfo(f.dtype).tiny).sqrt()
    unit = f / (norm + EPS)
    kernel = ((unit @ unit.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(1, keepdim=True)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the neighbourhoods: mean_j q_t log((q_t + eps) / (q_s + eps)).

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.

    Returns:
        [B], zero where the cosines agree: invariant to scale and rotation of either side.

    Source: Passalis and Tefas, arXiv 1803.10837; the mean over all B^2 pairs, as every public
    implementation has it (the paper sums), hence the large default weight.
    """
    q_s, q_t = neighbours(student), neighbours(teacher)
    return (q_t * ((q_t + EPS) / (q_s + EPS)).log()).mean(1)


class PKT(Distiller):
    """Divergence between the conditional probabilities of neighbours in the two feature spaces."""

    name = "pkt"
    source = "Passalis, Tefas, ECCV 2018, arXiv 1803.10837"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(
            30000.0, "Factor on the loss; RepDistiller's.", ge=0, search=(300.0, 300000.0), log=True
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        return {"neighbours": pkt_loss(student.embedding, teacher.embedding)}
