"""Entropy-based weights: a teacher that is sure of a cell counts more for it (Kwon et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Progress, Routing, each_teacher, weighted


def entropy_weights(logits: Tensor) -> Tensor:
    """w_ki = 1 - H_ki / sum_k H_ki, H the entropy at T = 1.

    Args:
        logits: [K, B, C] of K teachers.

    Returns:
        [K, B] in [0, 1], summing to K - 1 over the teachers. All weights are (K - 1) / K where no teacher
        has any entropy.

    Source: Kwon, Na, Lee, Kim, ICASSP 2020, as implemented by Zhang et al. (CA-MKD): not normalised to 1.
    """
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    total = entropy.sum(0, keepdim=True)
    even = torch.full_like(entropy, 1 / len(logits))
    return 1 - torch.where(total > 0, entropy / total.clamp_min(1e-12), even)


class Ebkd(Routing):
    """Every route is taught by all teachers, weighted per cell by how sure each is.

    (1/K) sum_k w_ki L_i(student, teacher k), w from `entropy_weights`. With one teacher it counts fully.
    """

    name = "ebkd"
    source = "Kwon et al., ICASSP 2020; weights as in Zhang et al., arXiv 2201.00007"
    pairing = "all"
    min_teachers = 2

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        each = each_teacher(distillers, student, teachers, progress)
        if len(teachers) == 1:
            return weighted(each, None)
        weights = entropy_weights(torch.stack([t.logits for t in teachers]).detach())
        return weighted(each, weights / len(teachers))
