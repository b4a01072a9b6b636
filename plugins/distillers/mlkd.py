"""Multi-level logit distillation (Jin et al. 2023): samples, batches and classes at several temperatures.

A variant. The paper teaches on two views of an image, a weakly and a strongly augmented one; here there is the
one view that training has, treated as the weak one. The confidence masks are applied per sample and per class,
as the authors' line `reduce=False` meant: in their code it is commented out, so the masks only halve the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def batch_consistency(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Rows of (P_t P_t^T - P_s P_s^T)^2 summed, P = softmax(z / T): [B, K] and [B, K] -> [B], without T^2.

    The mean over samples is ||P_t P_t^T - P_s P_s^T||_F^2 / B. Source: Jin et al., CVPR 2023.
    """
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return (t @ t.T - s @ s.T).square().sum(1)


def class_consistency(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Rows of (P_t^T P_t - P_s^T P_s)^2 summed, P = softmax(z / T): [B, K] and [B, K] -> [K], without T^2.

    The mean over classes is ||P_t^T P_t - P_s^T P_s||_F^2 / K. Source: Jin et al., CVPR 2023.
    """
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return (t.T @ t - s.T @ s).square().sum(1)


def lower_half(values: Tensor) -> Tensor:
    """[N] -> [N] bool: at or below the median, which is the mean of the two middle values where N is even."""
    return values <= values.quantile(0.5)


class MLKD(Distiller):
    """KL, sample-by-sample and class-by-class products of probabilities, at temperatures 2 to 6."""

    name = "mlkd"
    source = "Jin, Wang, Lin, CVPR 2023"

    class Params(DistillerParams):
        weight: float = param(
            0.1,
            "Factor on the loss; the paper has 0.9, which outweighs the task where classes and epochs are few.",
            ge=0,
            search=(0.01, 9.0),
            log=True,
            paper=0.9,
        )
        first_temperature: float = param(2.0, "The lowest temperature; the next are 1 apart.", gt=0, le=100)
        temperatures: int = param(5, "How many temperatures.", ge=1, le=20)
        mask: bool = param(
            True,
            "Teach only the half (samples, classes) of which the teacher is less sure.",
            search=[True, False],
        )

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, s, t = self.params, student.logits, teacher.logits
        steps = [p.first_temperature + i for i in range(p.temperatures)]
        levels = {
            "kl": torch.stack([kd_loss(s, t, step) for step in steps]).sum(0),
            "batch": torch.stack([batch_consistency(s, t, step) for step in steps]).sum(0),
            "classes": torch.stack([class_consistency(s, t, step) for step in steps]).sum(0),
        }
        if p.mask:
            sure = t.softmax(1)
            samples, classes = lower_half(sure.amax(1)), lower_half(sure.sum(0))
            levels = {k: v * (classes if k == "classes" else samples) for k, v in levels.items()}
        return {**levels, "classes": levels["classes"].mean()}
