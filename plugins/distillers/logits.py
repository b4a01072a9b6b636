"""Knowledge distillation on softened class probabilities (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_t || p_s) per sample, p = softmax(z / T).

    Args:
        student: logits [B, K].
        teacher: logits [B, K]; no gradient is expected to flow into them.
        temperature: T > 0. T^2 keeps the gradient's size as T grows.

    Returns:
        [B], each >= 0, zero where student = teacher. Invariant to adding a constant to a row of logits.

    Source: Hinton et al., arXiv 1503.02531, section 2; KL instead of cross-entropy, which differs by the
    teacher's entropy and has the same gradient.
    """
    log_p_s = F.log_softmax(student / temperature, 1)
    log_p_t = F.log_softmax(teacher / temperature, 1)
    return F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1) * temperature**2


class Logits(Distiller):
    """Softened class probabilities: T^2 KL(teacher || student)."""

    name = "logits"
    aliases = ("kd",)
    source = "Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv 1503.02531"

    class Params(DistillerParams):
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"kl": kd_loss(student.logits, teacher.logits, self.params.temperature)}
