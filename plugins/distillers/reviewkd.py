"""Knowledge review: deep student stages help shallow ones to match the teacher's (Chen, Liu, Zhao, Jia)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import pair_stages, same_size


def hierarchical_loss(student: Tensor, teacher: Tensor, sizes: tuple[int, ...] = (4, 2, 1)) -> Tensor:
    """Mean squared distance of the maps and of their averages over coarser and coarser grids, per sample.

    [d_0 + sum_k 2^-k d_k] / [1 + sum_k 2^-k], d_0 of the maps, d_k of the maps pooled to the k-th of those
    sizes that are smaller than the map.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W].
        sizes: sides of the grids, coarser and coarser.

    Returns:
        [B], each >= 0, zero where student = teacher; a shift of all values by c gives c^2.

    Source: Chen et al., CVPR 2021, arXiv 2104.09044, section 3.3 (HCL).
    """
    difference = student - teacher  # pooling is linear: the difference is pooled once
    total, share, weights = difference.pow(2).flatten(1).mean(1), 1.0, 1.0
    for size in sizes:
        if size >= difference.shape[2]:
            continue
        share /= 2
        weights += share
        total = total + share * F.adaptive_avg_pool2d(difference, size).pow(2).flatten(1).mean(1)
    return total / weights


class AttentionFusion(nn.Module):
    """Blends a stage with the output of deeper stages, each weighted per position (ABF of the paper).

    Args:
        given: channels of the student's stage.
        inner: channels in which stages are blended.
        wanted: channels of the teacher's stage.
        deepest: there is nothing deeper to blend with.
    """

    def __init__(self, given: int, inner: int, wanted: int, deepest: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(given, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.gates = None if deepest else nn.Conv2d(2 * inner, 2, 1)
        self.expand = nn.Sequential(nn.Conv2d(inner, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))

    def forward(self, stage: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what is compared with the teacher, what is passed to the next shallower stage)."""
        blend = self.reduce(stage)
        if self.gates is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=blend.shape[2:], mode="nearest")
            gates = torch.sigmoid(self.gates(torch.cat([blend, deeper], 1)))
            blend = blend * gates[:, :1] + deeper * gates[:, 1:]
        return self.expand(blend), blend


class Review(Distiller):
    """Knowledge review: hierarchical distance of attention-blended student stages to the teacher's stages.

    Stages only: the paper's code adds the pooled embedding as one more. The loss is ramped up from zero.
    """

    name = "reviewkd"
    source = "Chen, Liu, Zhao, Jia, CVPR 2021, arXiv 2104.09044"
    needs = Needs(student=("maps",), teacher=("maps",), schedule=True, trainable=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 30.0), log=True)
        warmup: float = param(
            1 / 12,
            "Share of training over which the loss is ramped up: 20 of 240 epochs.",
            ge=0,
            le=1,
            search=(0.0, 0.3),
        )
        width: int = param(512, "Most channels in which stages are blended.", ge=1, search=[128, 256, 512])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.pairs = pair_stages(len(pair.student_maps), len(pair.teacher_maps))
        inner = min(self.params.width, pair.student_maps[-1][0])
        self.fusions = nn.ModuleList(
            AttentionFusion(pair.student_maps[s][0], inner, pair.teacher_maps[t][0], i == len(self.pairs) - 1)
            for i, (s, t) in enumerate(self.pairs)
        )

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        grown = min(1.0, progress.fraction / self.params.warmup) if self.params.warmup else 1.0
        found: dict[str, Tensor] = {}
        deeper: Tensor | None = None
        for i in reversed(range(len(self.pairs))):
            s, t = self.pairs[i]
            met, deeper = self.fusions[i](student.maps[s], deeper)
            found[f"stage{i}"] = grown * hierarchical_loss(*same_size(met, teacher.maps[t]))
        return dict(reversed(found.items()))
