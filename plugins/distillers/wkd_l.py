"""Wasserstein distance of logits (Lv et al. 2024): probability moved between similar classes costs little.

Classes are as near as their weights in the teacher's classifier, which is one of the two choices of the authors'
code; the other, CKA of features per class, is computed beforehand. Defaults are those of ImageNet (ResNet34 to
ResNet18); for CIFAR-100 the authors have T 8 and gamma 600, or 6 and 200.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers._parts import classified, cosine_decay, others, transport_plan
from wbcbench_plugins.distillers.nkd import target_cross_entropy

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def class_costs(prototypes: Tensor, sharpness: float) -> Tensor:
    """c_jk = 1 - exp(-k (1 - cos(w_j, w_k))): 0 for one class and itself, growing as classes differ.

    Args:
        prototypes: w, one row per class, [K, D].
        sharpness: k > 0.

    Returns:
        [K, K], symmetric, in [0, 1).

    Source: the authors' code (JiamingLv/WKD); Lv, Yang, Li, arXiv 2412.08139.
    """
    unit = F.normalize(prototypes, dim=1)
    return -torch.expm1(-sharpness * (1 - unit @ unit.T).relu())


def transport_cost(
    student: Tensor, teacher: Tensor, costs: Tensor, temperature: float, regularisation: float, iterations: int
) -> Tensor:
    """sum_jk P_jk c_jk, P the entropic plan from the student's probabilities to the teacher's; without T^2.

    Args:
        student: logits [B, n].
        teacher: logits [B, n].
        costs: c, [n, n] or one matrix per row, [B, n, n].
        temperature: T > 0 in p = softmax(z / T).
        regularisation: of `transport_plan`.
        iterations: of `transport_plan`.

    Returns:
        [B], each >= 0; not zero where student = teacher, because the plan is blurred. Few iterations leave its
        column sums inexact.
    """
    p, q = ((z / temperature).log_softmax(1) for z in (student, teacher))
    costs = costs.expand(len(p), -1, -1)
    return (transport_plan(p, q, costs, regularisation, iterations) * costs).sum((1, 2))


class WKDL(Distiller):
    """Wasserstein distance over the classes other than the label, and the teacher's confidence in the label."""

    name = "wkd_l"
    source = "Lv, Yang, Li, NeurIPS 2024, arXiv 2412.08139 (WKD-L)"
    needs = Needs(teacher=("logits", "embedding"), labels=True, schedule=True, teacher_head=True, min_classes=3)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the paper's.", ge=0, search=(0.1, 10.0), log=True)
        gamma: float = param(30.0, "Factor on the distance.", ge=0, search=(1.0, 600.0), log=True)
        temperature: float = param(
            2.0, "T of the distance.", gt=0, le=100, search=(1.0, 10.0), log=True, when="gamma != 0"
        )
        sharpness: float = param(
            1.0, "kappa: higher makes unlike classes alike in cost.", gt=0, le=100, search=(0.5, 4.0), log=True,
            when="gamma != 0",
        )  # fmt: skip
        regularisation: float = param(
            0.05, "Entropy of the plan: higher blurs it.", gt=0, le=10, search=(0.02, 0.5), log=True,
            when="gamma != 0",
        )  # fmt: skip
        iterations: int = param(10, "Steps of Sinkhorn.", ge=1, le=1000, when="gamma != 0")
        decay_from: float = param(
            150 / 240, "Share of training after which gamma falls to 0 as a cosine; 1: never.", ge=0, le=1,
            search=(0.3, 1.0), when="gamma != 0",
        )  # fmt: skip

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, s, t, y = self.params, student.logits, teacher.logits, student.labels
        assert y is not None
        assert teacher.embedding is not None
        axes = torch.eye(teacher.embedding.shape[1], dtype=t.dtype, device=t.device)
        prototypes = (classified(teacher, axes) - classified(teacher, torch.zeros_like(axes[:1]))).detach().T
        rows = torch.arange(len(prototypes), device=t.device).expand(len(y), -1)
        rest = others(rows, y)
        costs = class_costs(prototypes, p.sharpness)[rest[:, :, None], rest[:, None, :]]
        moved = transport_cost(others(s, y), others(t, y), costs, p.temperature, p.regularisation, p.iterations)
        return {
            "target": target_cross_entropy(s, t, y),
            "distance": cosine_decay(progress, p.decay_from) * p.gamma * moved,
        }
