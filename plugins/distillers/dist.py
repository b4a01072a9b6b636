"""DIST (Huang et al. 2022): correlation instead of equality of probabilities.

The factor T^2 is in the authors' code and not in the paper. T 4 is for CIFAR-100; T 1 for ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def pearson(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Pearson's correlation of two tensors along one axis, which is left out of the result.

    0 where either is constant. `eps` is added to the product of norms, so that 1 is reached only nearly.
    """
    a, b = (x - x.mean(dim, keepdim=True) for x in (a, b))
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    correlation: Tensor = (a * b).sum(dim) / (norms + eps)
    return correlation


def inter_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 (1 - rho(p_s,i , p_t,i)) for each sample i: do both rank the classes alike?

    Args:
        student: logits [B, K]; with two classes rho is +-1 and has no gradient.
        teacher: logits [B, K].
        temperature: T > 0 in p = softmax(z / T).

    Returns:
        [B] in [0, 2 T^2].

    Source: Huang et al., arXiv 2205.10536.
    """
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return temperature**2 * (1 - pearson(s, t, 1))


def intra_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 (1 - rho) over the samples of a batch, for each class: [B, K] and [B, K] -> [K]. Same source."""
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return temperature**2 * (1 - pearson(s, t, 0))


class DIST(Distiller):
    """Correlation of probabilities over the classes of a sample, and over the samples of a class."""

    name = "dist"
    source = "Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536"
    needs = Needs(min_classes=3, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(2.0, "Factor on the loss; the authors' code.", ge=0, search=(0.1, 20.0), log=True)
        beta: float = param(1.0, "Factor on the relation between classes.", ge=0, search=(0.0, 4.0))
        gamma: float = param(1.0, "Factor on the relation between samples.", ge=0, search=(0.0, 4.0))
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 8.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        return {
            "inter": p.beta * inter_class(student.logits, teacher.logits, p.temperature),
            "intra": p.gamma * intra_class(student.logits, teacher.logits, p.temperature).mean(),
        }
