"""Hard distillation of DeiT (Touvron et al. 2021): the teacher's first class as a second label.

The paper reads it off a token of its own; here the one classifier learns both labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def hard_label_loss(student: Tensor, teacher: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the student against argmax_c z_t,c.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        smoothing: share of the label spread over all classes, in [0, 1).

    Returns:
        [B], each >= 0.

    Source: Touvron et al., arXiv 2012.12877, eq. 3, second term without its factor 1/2.
    """
    return F.cross_entropy(student, teacher.argmax(1), reduction="none", label_smoothing=smoothing)


class DeiTHard(Distiller):
    """Cross-entropy against the teacher's predicted class, on the same scale as the task loss."""

    name = "deit_hard"
    source = "Touvron et al., ICML 2021, arXiv 2012.12877, eq. 3"

    class Params(DistillerParams):
        weight: float = param(
            1.0, "Factor on the loss; 1: equal to the task's.", ge=0, search=(0.1, 10.0), log=True
        )
        smoothing: float = param(0.0, "Label smoothing.", ge=0, lt=1, search=(0.0, 0.2))

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"hard": hard_label_loss(student.logits, teacher.logits, self.params.smoothing)}
