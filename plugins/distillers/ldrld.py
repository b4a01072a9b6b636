"""Local dense relations of logits (Xu et al. 2025): every pair of the student's highest classes, and the rest."""

from __future__ import annotations

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def pair_weight(first: int, second: int) -> float:
    """2 exp(-0.05 (i + j)) / (1.5 + |i - j|) of two ranks i, j = 1, 2, ...: near and high ranks count most."""
    return 2 * math.exp(-0.05 * (first + second)) / (1.5 + abs(first - second))


def divergence_over(student: Tensor, teacher: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """T^2 KL over the softmax of some classes of a row: logits [B, K], classes [B, n] -> [B]; 0 for n = 1."""
    s, t = ((z.gather(1, classes) / temperature).log_softmax(1) for z in (student, teacher))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


def local_relations(student: Tensor, teacher: Tensor, top: Tensor, temperature: float) -> Tensor:
    """The mean of KL over all n classes together (weight 1) and KL over each of their pairs (`pair_weight`).

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        top: the student's n highest classes, highest first, [B, n] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0, zero where student = teacher.

    Source: Xu et al., ICCV 2025, and the authors' code (yema-web/LDRLD).
    """
    parts = [divergence_over(student, teacher, top, temperature)]
    for i, j in combinations(range(top.shape[1]), 2):
        parts.append(pair_weight(i + 1, j + 1) * divergence_over(student, teacher, top[:, [i, j]], temperature))
    return torch.stack(parts).mean(0)


class LDRLD(Distiller):
    """KL within each pair of the classes that the student ranks highest, and within those that it ranks lower."""

    name = "ldrld"
    source = "Xu, Liu, Liu, Wang, Xu, Cheng, ICCV 2025 (Local Dense Logit Relations)"
    needs = Needs(min_classes=3)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the authors'.", ge=0, search=(0.01, 10.0), log=True)
        alpha: float = param(10.5, "Factor on the highest classes.", ge=0, search=(1.0, 20.0), log=True)
        beta: float = param(7.0, "Factor on the other classes.", ge=0, search=(0.5, 16.0), log=True)
        top: int = param(
            7,
            "How many of the student's highest classes are paired, at most all but two of 4 or more. 1: none.",
            ge=1,
            le=100,
            search=[2, 3, 5, 7],
        )
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, s, t = self.params, student.logits, teacher.logits
        ranked = s.detach().argsort(dim=1, descending=True, stable=True)
        top = min(p.top, max(2, s.shape[1] - 2))
        return {
            "top": p.alpha * local_relations(s, t, ranked[:, :top], p.temperature),
            "others": p.beta * divergence_over(s, t, ranked[:, top:], p.temperature),
        }
