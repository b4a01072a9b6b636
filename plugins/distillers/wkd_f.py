"""Wasserstein distance of features (Lv et al. 2024): maps as Gaussians, compared by means and deviations.

The projector is a 1x1 convolution and batch norm; the authors' closing ReLU is left out, since a teacher's
features may be negative. Defaults are those of CIFAR-100.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.distillers._parts import cosine_decay

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def moments(maps: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean, and sqrt(variance + eps), of each channel over the positions: [B, C, H, W] -> [B, C] twice.

    The variance is that with n - 1; 0 for a single position.
    """
    flat = maps.flatten(2)
    mean = flat.mean(2)
    variance = (flat - mean[:, :, None]).square().sum(2) / max(1, flat.shape[2] - 1)
    return mean, (variance + eps).sqrt()


def gaussian_distance(student: Tensor, teacher: Tensor, ratio: float, grid: int = 1) -> Tensor:
    """r sum_c (m_s - m_t)^2 + sum_c (d_s - d_t)^2, m and d of `moments`, averaged over the parts of a grid.

    With r = 1 it is the squared 2-Wasserstein distance of Gaussians with independent channels.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W].
        ratio: r >= 0.
        grid: the map is cut into at most grid x grid parts.

    Returns:
        [B], each >= 0, zero where student = teacher. Invariant to the order of positions within a part.

    Source: Lv, Yang, Li, arXiv 2412.08139, and the authors' code (JiamingLv/WKD, wkd_feature_loss).
    """
    rows, columns = (cuts(n, grid) for n in student.shape[2:])
    found = []
    for top, bottom in rows:
        for left, right in columns:
            (m_s, d_s), (m_t, d_t) = (moments(x[:, :, top:bottom, left:right]) for x in (student, teacher))
            found.append((ratio * (m_s - m_t).square() + (d_s - d_t).square()).sum(1))
    return torch.stack(found).mean(0)


def cuts(side: int, parts: int) -> list[tuple[int, int]]:
    """Where the parts of a side begin and end, as adaptive pooling has them: they overlap where it is uneven."""
    count = min(side, parts)
    return [(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]


class WKDF(Distiller):
    """Means and deviations of the last stage's channels, as of Gaussians."""

    name = "wkd_f"
    source = "Lv, Yang, Li, NeurIPS 2024, arXiv 2412.08139 (WKD-F)"
    needs = Needs(student=("maps",), teacher=("maps",), schedule=True, min_batch=2, trainable=True)

    class Params(DistillerParams):
        weight: float = param(0.08, "Factor on the loss; the authors'.", ge=0, search=(0.001, 1.0), log=True)
        ratio: float = param(4.0, "Factor on the means; the deviations have 1.", ge=0, search=(0.5, 8.0), log=True)
        grid: int = param(1, "Parts per side of a map.", ge=1, le=8, search=[1, 2, 4])
        decay_from: float = param(
            150 / 240, "Share of training after which the loss falls to 0 as a cosine; 1: never.", ge=0, le=1,
            search=(0.3, 1.0),
        )  # fmt: skip

    params: Params

    def setup(self, pair: PairShapes) -> None:
        def projector(given: int, wanted: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(given, wanted, 1), nn.BatchNorm2d(wanted))

        self.stages = Stages(pair, projector, which="last")

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        ((s, t),) = self.stages(student.maps, teacher.maps)
        return {"gaussians": cosine_decay(progress, p.decay_from) * gaussian_distance(s, t, p.ratio, p.grid)}
