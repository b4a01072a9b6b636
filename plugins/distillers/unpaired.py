"""Distillation without pairs (Tran et al. 2026): a batch's features as a whole are moved to the teacher's.

The joint variant of the authors' code (`sumall`); its bilevel variant takes steps of a copy of the student. Which
row of the teacher belongs to which of the student makes no difference.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers._parts import classified, transport_plan

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param


def feature_transport(student: Tensor, teacher: Tensor, regularisation: float, iterations: int) -> Tensor:
    """Rows of sum_ij P_ij (1 - cos(s_i, t_j)), times B, P the entropic plan between two uniform batches.

    Args:
        student: features [B, D].
        teacher: features [B', D].
        regularisation: of the plan.
        iterations: of Sinkhorn.

    Returns:
        [B], whose mean is the cost of the plan. Invariant to the order of the teacher's rows, and to the length
        of a row.

    Source: the authors' code (khiembk/UnpairedCMKD, train_network_distill_unpair_sumall); arXiv 2606.10504.
    """
    s, t = (F.normalize(f, dim=1, eps=1e-6) for f in (student, teacher))
    cost = (1 - s @ t.T).relu()
    log_a, log_b = (x.new_full((len(x),), -math.log(len(x))) for x in (s, t))
    return len(s) * (transport_plan(log_a, log_b, cost, regularisation, iterations) * cost).sum(1)


def label_alignment(student: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
    """CE(z, y) - k CE(z', y), z' of the teacher's classifier on the student's features, k its p_y, a constant.

    Args:
        student: logits z [B, K].
        seen: logits z' [B, K].
        labels: y [B] int64.

    Returns:
        [B], >= -1/e: k CE(z') = -p log p.

    Source: the same.
    """
    own, theirs = (F.cross_entropy(z, labels, reduction="none") for z in (student, seen))
    return own - (-theirs.detach()).exp() * theirs


class Unpaired(Distiller):
    """Optimal transport between the features of two batches, and the label as both classifiers see it."""

    name = "unpaired"
    source = "Tran, Chu, Pham, Nguyen, Hoang, ICML 2026, arXiv 2606.10504: the joint variant of its code"
    needs = Needs(
        student=("logits", "embedding"),
        teacher=("embedding",),
        labels=True,
        teacher_head=True,
        matches="embedding",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the authors'.", ge=0, search=(0.01, 10.0), log=True)
        features: float = param(1.0, "Factor on the transport of features.", ge=0, search=(0.1, 10.0), log=True)
        labels: float = param(1.0, "Factor on the alignment of labels.", ge=0, search=(0.0, 4.0))
        regularisation: float = param(
            0.1, "Entropy of the plan: higher blurs it.", gt=0, le=10, search=(0.02, 1.0), log=True,
            when="features != 0",
        )  # fmt: skip
        iterations: int = param(100, "Steps of Sinkhorn.", ge=1, le=1000, when="features != 0")

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        self.adapter = adapters.linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        assert student.labels is not None
        assert teacher.embedding is not None
        f_s: Tensor = self.adapter(student.embedding)
        aligned = label_alignment(student.logits, classified(teacher, f_s), student.labels)
        moved = feature_transport(f_s, teacher.embedding, p.regularisation, p.iterations)
        return {"features": p.features * moved, "labels": p.labels * aligned}
