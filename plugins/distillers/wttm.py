"""Transformed teacher matching (Zheng, Yang 2024): only the teacher is softened, and uncertain cells count more.

Softening is a power of the teacher's probabilities; without a temperature on the student's side, the loss is
that of Hinton plus a Renyi entropy that keeps the student from certainty.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def transformed_loss(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """U KL(p_t^g / U || p_s) with U = sum_c p_t,c^g, p = softmax(z).

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        exponent: g > 0, the inverse of the teacher's temperature; 1 changes nothing.

    Returns:
        [B], each >= 0, zero where z_s = g z_t. U is 1 for a certain teacher and K^(1 - g) for a uniform one.

    Source: Zheng, Yang, arXiv 2402.11148, and the authors' code (zkxufo/TTM, WTTM).
    """
    weight = (exponent * teacher.log_softmax(1)).logsumexp(1).exp()
    softened = (exponent * teacher).log_softmax(1)
    return weight * F.kl_div(student.log_softmax(1), softened, reduction="none", log_target=True).sum(1)


class WTTM(Distiller):
    """The student's probabilities as they are against a power of the teacher's, weighted by its uncertainty."""

    name = "wttm"
    source = "Zheng, Yang, ICLR 2024, arXiv 2402.11148"

    class Params(DistillerParams):
        weight: float = param(
            4.0, "Factor on the loss; that of the authors' example.", ge=0, search=(0.4, 40.0), log=True
        )
        exponent: float = param(
            0.2,
            "g: below 1 softens the teacher; the authors have 0.1 to 0.3.",
            gt=0,
            le=4,
            search=(0.1, 1.0),
            log=True,
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"kl": transformed_loss(student.logits, teacher.logits, self.params.exponent)}
