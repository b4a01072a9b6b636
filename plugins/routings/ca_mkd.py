"""Confidence-aware weights: a teacher that is right about a cell counts more for it (Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Progress, Routing, each_teacher, weighted


def confidence_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """w_ki = (1 - softmax_k CE(z_ki, y_i)) / (K - 1): the lower a teacher's cross-entropy, the more it counts.

    Args:
        logits: [K, B, C] of K >= 2 teachers.
        labels: [B] int64.

    Returns:
        [K, B] in [0, 1 / (K - 1)], summing to 1 over the teachers.

    Source: Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007, eq. 2-3.
    """
    count, batch, classes = logits.shape
    flat = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(count), reduction="none")
    return (1 - flat.view(count, batch).softmax(0)) / (count - 1)


class CaMkd(Routing):
    """Every route is taught by all teachers, weighted per cell by how right each is about its label.

    (1/K) sum_k w_ki L_i(student, teacher k), w from `confidence_weights` of the teachers' predictions. For
    distillers of embeddings the paper weighs by the teacher's classifier on the adapted student feature;
    here the same weights serve all distillers. With one teacher it counts fully.
    """

    name = "ca_mkd"
    source = "Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007"
    pairing = "all"
    min_teachers = 2

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        each = each_teacher(distillers, student, teachers, progress)
        if len(teachers) == 1:
            return weighted(each, None)
        assert student.labels is not None
        weights = confidence_weights(torch.stack([t.logits for t in teachers]).detach(), student.labels)
        return weighted(each, weights / len(teachers))
