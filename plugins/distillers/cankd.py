"""Cross-attention distillation (Sun, Ohyama 2025): each position of the student reads the teacher's whole map."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """1/N sum_j <q_i, k_j> v_j at each position i: [B, C, *P], [B, C, *N] and [B, C, *N] -> [B, C, *P].

    The non-local operation with a dot product, without softmax. Linear in each of the three.
    """
    q, k, v = (x.flatten(2) for x in (query, key, value))
    return (v @ (k.transpose(1, 2) @ q) / k.shape[2]).view(query.shape)


def standardised_distance(student: Tensor, teacher: Tensor, eps: float = 1e-5) -> Tensor:
    """1/2 mean_chw (i(F_s) - i(F_t))^2, i = instance norm: each channel of each sample to mean 0 and deviation 1.

    Args:
        student: maps [B, C, H, W].
        teacher: maps [B, C, H, W].
        eps: added to the variance.

    Returns:
        [B] in [0, 2], zero where student = teacher; nearly unchanged by scale and shift of a channel.

    Source: Sun, Ohyama, arXiv 2511.21503, and the authors' code (tori-hotaru/CanKD, NLKD_IN_Loss).
    """

    def instance_norm(x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((2, 3), keepdim=True) + eps).sqrt()

    return (instance_norm(student) - instance_norm(teacher)).square().flatten(1).mean(1) / 2


class CrossAttention(nn.Module):
    """F_s + BN(W attended(theta F_s, phi F_t, g F_t)), keys and values max-pooled by 2; the identity at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        key, value = (
            F.max_pool2d(x, 2) if min(x.shape[2:]) > 1 else x for x in (self.phi(teacher), self.g(teacher))
        )
        found: Tensor = student + self.out(attended(self.theta(student), key, value))
        return found


class CanKD(Distiller):
    """The student's map plus what it reads in the teacher's by cross-attention, against the teacher's."""

    name = "cankd"
    source = "Sun, Ohyama, WACV 2026, arXiv 2511.21503"
    needs = Needs(student=("maps",), teacher=("maps",), min_batch=2, trainable=True)

    class Params(DistillerParams):
        weight: float = param(5.0, "Factor on the loss; the authors'.", ge=0, search=(0.1, 100.0), log=True)
        stages: Literal["last", "all"] = param(
            "all", "All paired stages (the paper's), or the deepest alone.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, which=self.params.stages)
        self.attention = nn.ModuleList(CrossAttention(pair.teacher_maps[t][0]) for _, t in self.stages.indices)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = zip(self.attention, self.stages(student.maps, teacher.maps), strict=True)
        return {f"stage{i}": standardised_distance(attend(s, t), t) for i, (attend, (s, t)) in enumerate(pairs)}
