"""Universal self-distillation (Yang et al. 2023): soft labels that the student makes for itself.

The ranks follow the paper: both heads' probabilities of the other classes, normalised and added. The authors'
code adds the student's log-probabilities instead, and counts the label's own rank. The weak head reads the
second deepest stage (the only one, if there is one).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers._parts import others

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def smoothed_target_loss(student: Tensor, labels: Tensor) -> Tensor:
    """-(1 + p_y^2 - mean_batch p_y^2) log p_y, the factor constant for the gradient.

    Args:
        student: logits [B, K].
        labels: y [B] int64.

    Returns:
        [B], each >= 0: the cross-entropy, heavier for samples that the student finds easy.

    Source: Yang et al., arXiv 2303.13005, the customised target label.
    """
    log_p = student.log_softmax(1).gather(1, labels[:, None])[:, 0]
    squared = (2 * log_p.detach()).exp()
    return -(1 + squared - squared.mean()) * log_p


def ranked_others_loss(student: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the student's other classes against Zipf's law over their joint rank.

    The rank of a class is by softmax(z_s) + softmax(z_w), both over the classes other than y; rank r gets
    probability proportional to 1 / r.

    Args:
        student: logits [B, K], K >= 3.
        weak: logits [B, K] of the weak head; only their order matters, so no gradient goes there.
        labels: y [B] int64.

    Returns:
        [B], each >= 0.

    Source: Yang et al., arXiv 2303.13005, the customised other labels.
    """
    rest = others(student, labels)
    with torch.no_grad():
        joint = rest.softmax(1) + others(weak, labels).softmax(1)
        rank = joint.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
        wanted = F.normalize(rank.to(rest.dtype).reciprocal(), p=1, dim=1)
    return -(wanted * rest.log_softmax(1)).sum(1)


class USKD(Distiller):
    """Self-made soft labels: the label's weight by ease, the others' by rank; no teacher is trained."""

    name = "uskd"
    source = "Yang et al., ICCV 2023, arXiv 2303.13005"
    needs = Needs(
        student=("logits", "maps"),
        teacher=(),
        labels=True,
        taught_by="self",
        min_classes=3,
        trainable=True,
        matches="logits",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        alpha: float = param(1.0, "Factor on the label's class.", ge=0, search=(0.1, 4.0), log=True)
        beta: float = param(0.1, "Factor on the other classes.", ge=0, search=(0.01, 1.0), log=True)
        mu: float = param(0.005, "Factor on the weak head's own labels.", ge=0, search=(0.0005, 0.05), log=True)

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if not pair.student_maps:
            raise IncompatibleError(
                "uskd puts a weak head on a stage map, but the student's backbone gives none. Choose another "
                "distiller without a teacher (tf_kd), or another backbone (wbcbench list backbones)."
            )
        self.stage = max(0, len(pair.student_maps) - 2)
        self.weak = nn.Linear(pair.student_maps[self.stage][0], pair.n_classes)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, y = self.params, student.labels
        assert y is not None
        weak = self.weak(student.maps[self.stage].mean((2, 3)))
        return {
            "target": p.alpha * smoothed_target_loss(student.logits, y),
            "others": p.beta * ranked_others_loss(student.logits, weak, y),
            "weak": p.mu * F.cross_entropy(weak, y, reduction="none", label_smoothing=0.1),
        }
