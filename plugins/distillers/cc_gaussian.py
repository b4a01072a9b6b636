"""Correlation congruence: Gaussian kernel matrices of a batch, by their Taylor series (Peng et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def gaussian_kernel(f: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma |n_i - n_j|^2) of normalised rows, expanded to sum_p e^{-2 gamma} (2 gamma)^p / p! <n_i, n_j>^p.

    Args:
        f: embeddings [B, D].
        gamma: > 0, inverse width.
        order: P, the last power kept.

    Returns:
        [B, B].

    Source: Peng et al., arXiv 1904.01802.
    """
    unit = F.normalize(f, dim=1)
    cosine = unit @ unit.T
    kernel = torch.zeros_like(cosine)
    for p in range(order + 1):
        kernel = kernel + math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p
    return kernel


def cc_loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """Mean squared difference of the two kernel matrices.

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.
        gamma, order: of `gaussian_kernel`.

    Returns:
        [B], per row of the matrices. Invariant to rotation and scale of either side.

    Source: Peng et al., in the form of AberHu's Knowledge-Distillation-Zoo (65470c8).
    """
    return (gaussian_kernel(student, gamma, order) - gaussian_kernel(teacher, gamma, order)).pow(2).mean(1)


class CCGaussian(Distiller):
    """Gaussian kernel matrices of normalised features. torchdistill's form is `cc_td`, RepDistiller's `cc_rd`."""

    name = "cc_gaussian"
    source = "Peng et al., ICCV 2019, arXiv 1904.01802"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(100.0, "Factor on the loss; AberHu's.", ge=0, search=(1.0, 10000.0), log=True)
        gamma: float = param(0.4, "Inverse width of the kernel.", gt=0, le=10, search=(0.1, 2.0), log=True)
        order: int = param(2, "Last power of the Taylor series.", ge=1, le=10)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        p = self.params
        return {"kernel": cc_loss(student.embedding, teacher.embedding, p.gamma, p.order)}
