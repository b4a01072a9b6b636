"""Label revision: regression where the teacher is right, a corrected teacher where it is wrong.

The loss has a cross-entropy of its own, on the samples that the teacher gets right; to follow the source
exactly set the task's weight to 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def revised(teacher: Tensor, labels: Tensor, eta: float) -> Tensor:
    """b p_t + (1 - b) 1_y with b = eta / (max_c p_t,c - p_t,y + 1), p = softmax(z) at temperature 1.

    Args:
        teacher: logits [B, K].
        labels: y [B] int64.
        eta: in [0, 1]: below 1 the label ends above every other class, at 1 it ties with the first.

    Returns:
        [B, K], rows sum to 1, all >= 0.

    Source: the baseline `REVISION` of Sun et al., arXiv 2408.07703.
    """
    p = teacher.softmax(1)
    share = eta / (p.amax(1, keepdim=True) - p.gather(1, labels[:, None]) + 1)
    return share * p + (1 - share) * F.one_hot(labels, p.shape[1]).to(p.dtype)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B] values over the samples of a boolean mask; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


class Revision(Distiller):
    """Logit regression where the teacher is right; its probabilities mixed with the label where not."""

    name = "revision"
    source = "the baseline REVISION of Sun et al. 2024, arXiv 2408.07703"
    needs = Needs(labels=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        right: float = param(4.0, "lambda_1: regression of right logits.", ge=0, search=(0.1, 10.0), log=True)
        wrong: float = param(1.0, "lambda_2: revised probabilities.", ge=0, search=(0.1, 10.0), log=True)
        eta: float = param(
            0.8, "Largest share that a wrong teacher keeps.", ge=0, le=1, search=(0.1, 1.0), when="wrong != 0"
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        s, t, y = student.logits, teacher.logits, student.labels
        assert y is not None
        is_right = t.argmax(1) == y
        apart = (s.softmax(1) - revised(t, y, self.params.eta)).square().mean(1)
        return {
            "label": mean_where(F.cross_entropy(s, y, reduction="none"), is_right),
            "right": self.params.right * mean_where((s - t).square().mean(1), is_right),
            "wrong": self.params.wrong * mean_where(apart, ~is_right),
        }
