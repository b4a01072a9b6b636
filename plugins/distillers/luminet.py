"""LumiNet (Hossain et al. 2023): logits are compared after each class is standardised over the batch."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers._parts import ramp
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def perception(logits: Tensor, eps: float = 1e-5) -> Tensor:
    """(z - mean z) / sqrt(var z + eps) per class over the batch, the variance with B.

    Args:
        logits: [B, K], B >= 2.
        eps: keeps a constant class finite: it becomes zero.

    Returns:
        [B, K]; nearly unchanged by z_c -> a_c z_c + b_c with a_c > 0.

    Source: the authors' code (ismail31416/LumiNet); Hossain et al., arXiv 2310.03669.
    """
    variance, mean = logits.var(0, correction=0, keepdim=True), logits.mean(0, keepdim=True)
    return (logits - mean) / (variance + eps).sqrt()


class LumiNet(Distiller):
    """KL of softened probabilities, from logits that say how a cell stands out of its batch in each class."""

    name = "luminet"
    source = "Hossain, Elahi, Ramasinghe, Cheraghian, Rahman, Mohammed, Rahman, arXiv 2310.03669"
    needs = Needs(schedule=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            1089.0, "Factor on the loss: the authors' alpha^2, alpha 33.", ge=0, search=(1.0, 2000.0), log=True
        )
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)
        warmup: float = param(
            20 / 240, "Share of training over which the loss grows linearly from 0.", ge=0, le=1, search=(0.0, 0.3)
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        s, t = perception(student.logits), perception(teacher.logits)
        return {"kl": ramp(progress, p.warmup) * kd_loss(s, t, p.temperature) / p.temperature**2}
