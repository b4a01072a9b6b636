"""Teacher-free distillation (Yuan et al. 2020): a virtual teacher made from the labels (Tf-KD_reg).

The variant by self-training, Tf-KD_self, is `logits` with a trained student as its own teacher: choose the
student's architecture for the teacher. The virtual teacher is softened as a network's probabilities are,
p^(1/T) normalised, and so is the student, as in the paper; the authors' code applies softmax to p / T and does
not soften the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def virtual_teacher(student: Tensor, labels: Tensor, correct: float) -> Tensor:
    """Logits of the distribution with probability a for the label and (1 - a) / (K - 1) for each other class.

    Args:
        student: logits [B, K], for shape, type and device alone.
        labels: y [B] int64.
        correct: a in (0, 1).

    Returns:
        [B, K], the logarithms of the probabilities.

    Source: Yuan et al., arXiv 1909.11723.
    """
    rest = math.log((1 - correct) / (student.shape[1] - 1))
    return torch.full_like(student, rest, requires_grad=False).scatter(1, labels[:, None], math.log(correct))


class TfKD(Distiller):
    """Softened KL towards a virtual teacher that is always right; no teacher is trained."""

    name = "tf_kd"
    source = "Yuan, Tay, Li, Wang, Feng, CVPR 2020, arXiv 1909.11723"
    needs = Needs(teacher=(), labels=True, taught_by="self")

    class Params(DistillerParams):
        weight: float = param(0.1, "Factor on the loss; the authors' code.", ge=0, search=(0.01, 1.0), log=True)
        correct: float = param(0.99, "a: probability of the label.", gt=0, lt=1, search=(0.9, 0.999))
        temperature: float = param(20.0, "T: higher softens more.", gt=0, le=100, search=(4.0, 40.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        target = virtual_teacher(student.logits, student.labels, self.params.correct)
        return {"kl": kd_loss(student.logits, target, self.params.temperature)}
