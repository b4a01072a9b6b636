"""Scale-decoupled distillation (Wei et al. 2024): the logits of parts of the map, each taught for itself.

A part's logits are the network's own classifier on the part's mean feature. This is SD-KD; the paper also puts
DKD and NKD in the place of Hinton's loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers._parts import classified, require_pooled_heads
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param


def parts_of(maps: Tensor, scales: int) -> Tensor:
    """Mean features of the parts of 1x1, 2x2, 4x4, ... grids, [B, 1 + 4 + 16 + ..., C]; the first is the whole.

    Args:
        maps: [B, C, H, W].
        scales: how many grids.
    """
    pooled = [F.adaptive_avg_pool2d(maps, 2**i).flatten(2) for i in range(scales)]
    return torch.cat(pooled, 2).transpose(1, 2)


def part_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over the parts of v T^2 KL(p_t || p_s), v = 2 where a part and the whole disagree, else 1.

    They disagree where the teacher is right about the label in one of them and wrong in the other.

    Args:
        student: logits [B, P, K] of P parts, of which the first is the whole.
        teacher: logits [B, P, K].
        labels: y [B] int64.
        temperature: T > 0.

    Returns:
        [B], each >= 0, zero where student = teacher.

    Source: Wei, Luo, Luo, arXiv 2403.13512, and the authors' code (shicaiwei123/SDD-CVPR2024, sdd_kd_loss).
    """
    right = teacher.argmax(2) == labels[:, None]
    weight = 1 + (right != right[:, :1]).to(student.dtype)
    divergence = kd_loss(student.flatten(0, 1), teacher.flatten(0, 1), temperature).view(weight.shape)
    return (weight * divergence).mean(1)


class SDD(Distiller):
    """Hinton's loss on the logits of a map and of its parts; parts that disagree with the whole count twice."""

    name = "sdd"
    source = "Wei, Luo, Luo, CVPR 2024, arXiv 2403.13512"
    needs = Needs(
        student=("maps", "embedding"),
        teacher=("maps", "embedding"),
        labels=True,
        teacher_head=True,
        matches="logits",
    )

    class Params(DistillerParams):
        weight: float = param(0.9, "Factor on the loss; the authors'.", ge=0, search=(0.1, 10.0), log=True)
        scales: int = param(
            3, "How many grids: 1x1, 2x2, 4x4, ...; 1: the whole alone.", ge=1, le=4, search=[1, 2, 3]
        )
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def setup(self, pair: PairShapes) -> None:
        require_pooled_heads(self.name, pair)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        s, t = (classified(out, parts_of(out.maps[-1], self.params.scales)) for out in (student, teacher))
        return {"parts": part_loss(s, t, student.labels, self.params.temperature)}
