"""Correlation congruence as torchdistill computes it: Frobenius norm, on features that are not normalised.

Unlike in `cc_gaussian`, the norm is not squared and the kernel reads raw features, so the value grows with their
scale. Published as "CC" too.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def series(gram: Tensor, gamma: float, order: int) -> Tensor:
    """sum_p e^{-2 gamma} (2 gamma)^p / p! G^p, p = 0..order, elementwise on G [B, B]."""
    total = torch.zeros_like(gram)
    for p in range(order + 1):
        total = total + math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * gram**p
    return total


def kernel_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """||K_s - K_t||_F / B^2.

    Args:
        student, teacher: kernel matrices [B, B].

    Returns:
        A scalar >= 0; zero, with zero gradient, where the matrices agree.

    Source: torchdistill (3e4373c), `CCKDLoss`.
    """
    distance: Tensor = torch.linalg.vector_norm(student - teacher)
    return distance / len(student) ** 2


class CCTorchdistill(Distiller):
    """Kernel matrices of raw features, bilinear or Gaussian, by their Frobenius distance."""

    name = "cc_td"
    source = "torchdistill's form of Peng et al., ICCV 2019, arXiv 1904.01802"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(
            0.003, "Factor on the loss; the paper's and torchdistill's.", ge=0, search=(1e-5, 1.0), log=True
        )
        kernel: Literal["gaussian", "bilinear"] = param(
            "gaussian", "K = <f_i, f_j>, or its Gaussian series.", search=["gaussian", "bilinear"]
        )
        gamma: float = param(
            0.4,
            "The Gaussian's inverse width.",
            gt=0,
            le=10,
            search=(0.1, 2.0),
            log=True,
            when="kernel = gaussian",
        )
        order: int = param(
            2, "Last power of the Gaussian kernel's Taylor series.", ge=1, le=10, when="kernel = gaussian"
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        p = self.params
        k_s, k_t = (f @ f.T for f in (student.embedding, teacher.embedding))
        if p.kernel == "gaussian":
            k_s, k_t = (series(k, p.gamma, p.order) for k in (k_s, k_t))
        return {"kernel": kernel_distance(k_s, k_t)}
