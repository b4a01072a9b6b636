"""Adaptive ensemble in gradient space: a step that conflicts with no teacher (Du et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Parameters, Progress, Routing, each_teacher, param, weighted
from wbcbench.contracts.adapters import min_norm


def min_norm_weights(gradients: Tensor, steps: int = 50) -> Tensor:
    """argmin_w |sum_k w_k g_k|^2 over the simplex, by Frank-Wolfe with exact line search.

    Args:
        gradients: [K, D], one per teacher.
        steps: of Frank-Wolfe; two teachers are solved exactly.

    Returns:
        [K], each >= 0, sum 1. No value is read back from the device.

    Source: Desideri 2012 (multiple-gradient descent); Sener and Koltun, arXiv 1810.04650, algorithm 2.
    """
    return min_norm(gradients @ gradients.T, steps)


class Aekd(Routing):
    """Every route is taught by all teachers, mixed so that the gradients conflict least.

    The weights are the minimum-norm point of the hull of d L_k / d z, z the student's logits (its embedding
    for distillers that read no logits). The paper bounds each weight from above (a support vector machine's
    C); this is the form without a bound, solved on the device.
    """

    name = "aekd"
    source = "Du et al., NeurIPS 2020, eq. 5-8, with C = 1"
    pairing = "all"
    min_teachers = 2

    class Params(Parameters):
        mix: float = param(1.0, "1: the minimum-norm weights; 0: equal weights.", ge=0, le=1, search=(0.0, 1.0))

    params: Params

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        each = each_teacher(distillers, student, teachers, progress)
        if len(teachers) == 1 or not each[0]:
            return weighted(each, None)
        reads = student.logits if "logits" in distillers[0].needs.student else student.embedding
        if reads is None or not reads.requires_grad:
            return weighted(each, None)
        totals = [torch.stack([v.mean() for v in terms.values()]).sum() for terms in each]
        found = [torch.autograd.grad(t, reads, retain_graph=True, allow_unused=True)[0] for t in totals]
        gradients = torch.stack([torch.zeros_like(reads) if g is None else g for g in found]).flatten(1)
        weights = min_norm_weights(gradients.detach())
        return weighted(each, self.params.mix * weights + (1 - self.params.mix) / len(teachers))
