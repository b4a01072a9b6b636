"""Relations between samples: distances of pairs and angles of triples (Park et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param

SAME = 1e-12
"""Squared distance up to which two samples count as one point, without direction."""


def edges(f: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and directions between the rows of `f`.

    Args:
        f: embeddings [B, D].

    Returns:
        Distances d_ij = |f_j - f_i| [B, B] and unit vectors (f_j - f_i) / d_ij [B, B, D]; both zero, and
        without gradient, where two rows coincide.
    """
    difference = f[None] - f[:, None]
    square = difference.pow(2).sum(2)
    apart = square > SAME
    distance = torch.where(apart, square, 1.0).sqrt()
    return distance * apart, difference * (apart / distance)[..., None]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between distances, each divided by the mean over the batch's distinct pairs.

    Args:
        student, teacher: distances [B, B] of `edges`.

    Returns:
        [B], per anchor: the mean over its B pairs (its own included). Invariant to the scale of either side.

    Source: Park et al., arXiv 1904.05068.
    """

    def relative(d: Tensor) -> Tensor:
        positive = d > 0
        mean = d.sum() / positive.sum().clamp(min=1)
        return d / torch.where(positive.any(), mean, 1.0)

    return F.smooth_l1_loss(relative(student), relative(teacher), reduction="none").mean(1)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between cosines <e_ij, e_ik> of the angles at i; 0 for triples without an angle.

    Args:
        student, teacher: directions [B, B, *] of `edges`; the widths may differ.

    Returns:
        [B], per anchor i: the mean over its B^2 pairs (j, k).

    Source: Park et al., arXiv 1904.05068.
    """
    cos_s, cos_t = (torch.bmm(e, e.transpose(1, 2)) for e in (student, teacher))
    return F.smooth_l1_loss(cos_s, cos_t, reduction="none").mean((1, 2))


class RKD(Distiller):
    """Distances of pairs and angles of triples of samples. Memory grows as B^2 (B + D)."""

    name = "rkd"
    source = "Park et al., CVPR 2019, arXiv 1904.05068"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=3, matches="relational")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        distance: float = param(
            25.0, "Factor on the distances; for classification.", ge=0, search=(1.0, 100.0), log=True
        )
        angle: float = param(50.0, "Factor on the angles.", ge=0, search=(1.0, 100.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        (d_s, e_s), (d_t, e_t) = edges(student.embedding), edges(teacher.embedding)
        return {
            "distance": self.params.distance * distance_loss(d_s, d_t),
            "angle": self.params.angle * angle_loss(e_s, e_t),
        }
