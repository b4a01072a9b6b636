"""Streamlined distillation (Jeong et al. 2026): probabilities, and similarities between samples of a batch.

The equations of the paper; the authors' code divides the Gram matrices by the number of classes and multiplies
the second term by a mask of classes that halves it. There is no T^2 in the first term.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def direction_loss(student: Tensor, teacher: Tensor, ridge: float) -> Tensor:
    """sqrt(D_i^T (cov(D) + lambda I)^-1 D_i), D = Gram(n(z_s)) - Gram(n(z_t)), n = rows at unit length.

    Args:
        student: logits [B, K], B >= 2.
        teacher: logits [B, K].
        ridge: lambda > 0.

    Returns:
        [B], each >= 0, zero where student = teacher. Invariant to the length of a row of logits.

    Source: Jeong, Lee, Choi, CVPR 2026, eq. 3-8.
    """
    s, t = (F.normalize(z, dim=1) for z in (student, teacher))
    apart = s @ s.T - t @ t.T
    spread = torch.cov(apart.T) + ridge * torch.eye(len(apart), dtype=apart.dtype, device=apart.device)
    lower = torch.linalg.cholesky_ex(spread).L
    white = torch.linalg.solve_triangular(lower, apart.T, upper=False)
    distances: Tensor = torch.linalg.vector_norm(white, dim=0)
    return distances


class SKD(Distiller):
    """KL of softened probabilities, and the Mahalanobis distance between Gram matrices of a batch."""

    name = "skd"
    source = "Jeong, Lee, Choi, CVPR 2026"
    needs = Needs(min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            0.1,
            "Factor on the loss; the paper has 1, which outweighs the task loss where classes and epochs are few.",
            ge=0,
            search=(0.01, 10.0),
            log=True,
            paper=1.0,
        )
        direction: float = param(1.0, "Factor on the Gram matrices.", ge=0, search=(0.0, 4.0))
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)
        ridge: float = param(
            0.1, "lambda: added to the covariance.", gt=0, search=(0.01, 1.0), log=True, when="direction != 0"
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        return {
            "kl": kd_loss(student.logits, teacher.logits, p.temperature) / p.temperature**2,
            "direction": p.direction * direction_loss(student.logits, teacher.logits, p.ridge),
        }
