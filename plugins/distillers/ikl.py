"""Improved KL (Cui et al. 2024): a weighted squared error of differences of logits, and soft labels.

A variant without the class-wise global weights of the paper's imbalanced setting; its code for CIFAR-100 leaves
them out too.
"""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers._parts import ramp
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def pair_differences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """1/4 sum_jk w_j w_k [(t_j - t_k) - (s_j - s_k)]^2 = 1/2 Var_w(t - s), w = softmax(t / T).

    Args:
        student: logits s [B, K].
        teacher: logits t [B, K].
        temperature: T > 0 of the weights; 100 makes nearly all pairs count alike.

    Returns:
        [B], each >= 0, zero where the logits differ by a constant.

    Source: Cui et al., arXiv 2305.13948, and the authors' code (jiequancui/DKL, IKL_KD).
    """
    weights, apart = (teacher / temperature).softmax(1), teacher - student
    mean = (weights * apart).sum(1, keepdim=True)
    return (weights * (apart - mean).square()).sum(1) / 2


class IKL(Distiller):
    """Weighted squared differences of all pairs of logits, and soft labels, whose KL is here without T^2."""

    name = "ikl"
    source = "Cui, Tian, Zhong, Qi, Yu, Zhang, NeurIPS 2024, arXiv 2305.13948"
    needs = Needs(schedule=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the paper's.", ge=0, search=(0.01, 10.0), log=True)
        alpha: float = param(1.0, "Factor on the soft labels.", ge=0, search=(0.0, 4.0))
        beta: float = param(8.0, "Factor on the differences of logits.", ge=0, search=(0.5, 16.0), log=True)
        temperature: float = param(
            4.0, "T of the soft labels.", gt=0, le=100, search=(1.0, 20.0), log=True, when="alpha != 0"
        )
        weight_temperature: float = param(
            100.0, "T of the pairs' weights.", gt=0, le=1000, search=(1.0, 100.0), log=True, when="beta != 0"
        )
        warmup: float = param(
            20 / 240, "Share of training over which the loss grows linearly from 0.", ge=0, le=1, search=(0.0, 0.3)
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p, s, t = self.params, student.logits, teacher.logits
        grown = ramp(progress, p.warmup)
        return {
            "differences": grown * p.beta * pair_differences(s, t, p.weight_temperature),
            "kl": grown * p.alpha * kd_loss(s, t, p.temperature) / p.temperature**2,
        }
