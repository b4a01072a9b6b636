"""Instance relationship graph: samples as vertices, distances as edges, and how they change (Liu et al. 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import pair_stages

EPS = 1e-12


def graph(x: Tensor) -> Tensor:
    """Squared distances between samples, divided by the largest.

    Args:
        x: [B, ...] features or maps.

    Returns:
        [B, B] in [0, 1], zero on the diagonal and where all samples coincide. Invariant to rotation, shift
        and scale.

    Source: Liu et al., CVPR 2019.
    """
    flat = x.flatten(1)
    flat = flat - flat.mean(0)  # distances stay, and cancel less
    norm = flat.pow(2).sum(1)
    square = (norm[:, None] + norm[None] - 2 * flat @ flat.T).clamp(min=0)
    square = square * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return square / square.max().clamp(min=EPS)


def transformation(first: Tensor, second: Tensor) -> Tensor:
    """How far each sample moves from one stage to the next: |F_1 - F_2|^2, divided by the batch's largest.

    Args:
        first, second: [B, C, H, W]; both are averaged to the smaller of channels, height and width.

    Returns:
        [B] in [0, 1].

    Source: Liu et al., CVPR 2019; channels averaged in groups as AberHu's (65470c8) does.
    """
    c, h, w = (min(a, b) for a, b in zip(first.shape[1:], second.shape[1:], strict=True))
    a, b = (F.adaptive_avg_pool3d(x[:, None], (c, h, w)) for x in (first, second))
    square = (a - b).pow(2).flatten(1).sum(1)
    return square / square.max().clamp(min=EPS)


class IRG(Distiller):
    """Logits as vertices, distances between samples as edges, movements between stages as transformations."""

    name = "irg"
    source = "Liu et al., CVPR 2019 (instance relationship graph)"
    needs = Needs(
        student=("logits", "embedding", "maps"),
        teacher=("logits", "embedding", "maps"),
        min_batch=2,
        matches="relational",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        vertex: float = param(
            0.1, "Factor on the logits' squared distance; AberHu's.", ge=0, search=(0.01, 1.0), log=True
        )
        edge: float = param(
            5.0, "Factor on the distances between samples; AberHu's.", ge=0, search=(0.5, 50.0), log=True
        )
        transformation: float = param(
            5.0, "Factor on the movements between stages; AberHu's.", ge=0, search=(0.5, 50.0), log=True
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = pair_stages(len(pair.student_maps), len(pair.teacher_maps))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        maps = [(student.maps[s], teacher.maps[t]) for s, t in self.stages]
        edges = [(graph(s) - graph(t)).pow(2).mean(1) for s, t in [(student.embedding, teacher.embedding), *maps]]
        terms = {
            "vertex": self.params.vertex * (student.logits - teacher.logits).pow(2).mean(1),
            "edge": self.params.edge * torch.stack(edges).mean(0),
        }
        moves = [
            (transformation(s_1, s_2) - transformation(t_1, t_2)).pow(2)
            for (s_1, t_1), (s_2, t_2) in pairwise(maps)
        ]
        if moves:
            terms["transformation"] = self.params.transformation * torch.stack(moves).mean(0)
        return terms
