"""Binary distillation: every class is a yes-no question of its own (as in the code of OFA-KD, 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def binary_kd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over classes of the binary cross-entropy of sigmoid(z_s) against softmax(z_t).

    Args:
        student: logits [B, K], read as K independent log-odds.
        teacher: logits [B, K], read as one distribution over K classes.

    Returns:
        [B], each >= 0. Not zero at student = teacher; least where sigmoid(z_s) = softmax(z_t).

    Source: the distiller `BKD` in the code of Hao et al., NeurIPS 2023, arXiv 2310.19444.
    """
    return F.binary_cross_entropy_with_logits(student, teacher.softmax(1), reduction="none").mean(1)


class BinaryKD(Distiller):
    """Binary cross-entropy of each class against the teacher's probability."""

    name = "bkd"
    source = "code of Hao et al., NeurIPS 2023, arXiv 2310.19444"

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"bce": binary_kd_loss(student.logits, teacher.logits)}
