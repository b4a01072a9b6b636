"""Shared layers of distillers that bring a student's tensors into a teacher's shape.

Adapters belong to the distiller: trained, checkpointed, and left out of the deployed model. If the
shapes already agree they are the identity, so that nothing is learned unnecessarily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import PairShapes
from wbcbench.errors import IncompatibleError

Which = Literal["all", "last"]


def linear(given: int | None, wanted: int | None) -> nn.Module:
    """[B, given] -> [B, wanted]: the identity, or a linear layer with bias."""
    if given is None or wanted is None:
        raise IncompatibleError("A distiller reads embeddings, but the student or the teacher has none.")
    return nn.Identity() if given == wanted else nn.Linear(given, wanted)


def conv1x1(given: int, wanted: int) -> nn.Module:
    """[B, given, H, W] -> [B, wanted, H, W]: the identity, or a 1x1 convolution."""
    return nn.Identity() if given == wanted else nn.Conv2d(given, wanted, 1)


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, *, H, W] average-pooled to the smaller of their heights and widths."""
    side = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return tuple(x if x.shape[2:] == side else F.adaptive_avg_pool2d(x, side) for x in (a, b))  # type: ignore[return-value]


def pair_stages(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Which student stage is paired with which teacher stage, shallow to deep; the deepest are always paired.

    With S and T stages: the last min(S, T) stages of both, in order.
    `pair_stages(3, 4)` is ((0, 1), (1, 2), (2, 3)).

    Raises:
        IncompatibleError: one side has no stage maps.
    """
    if not student or not teacher:
        who = "student" if not student else "teacher"
        raise IncompatibleError(
            f"A distiller reads stage maps, but the {who}'s backbone gives none. Choose a distiller of logits or "
            "embeddings, or another backbone (wbcbench list backbones)."
        )
    count = min(student, teacher)

    return tuple((student - i, teacher - i) for i in range(count, 0, -1))


class Stages(nn.Module):
    """Yields (student map, teacher map) per paired stage, shallow to deep, of one height and width.

    Args:
        pair: shapes of student and teacher.
        adapter: (student channels, teacher channels) -> the layer that brings a student's map into the
            teacher's channels; None if the loss does not need equal channels.
        which: every paired stage, or the deepest alone.
    """

    def __init__(
        self,
        pair: PairShapes,
        adapter: Callable[[int, int], nn.Module] | None = conv1x1,
        which: Which = "all",
    ) -> None:
        super().__init__()
        indices = pair_stages(len(pair.student_maps), len(pair.teacher_maps))
        self.indices = indices if which == "all" else indices[-1:]
        channels = [(pair.student_maps[s][0], pair.teacher_maps[t][0]) for s, t in self.indices]
        self.adapters = nn.ModuleList(nn.Identity() if adapter is None else adapter(s, t) for s, t in channels)

    def __len__(self) -> int:
        return len(self.indices)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for adapter, (s, t) in zip(self.adapters, self.indices, strict=True):
            smaller, target = same_size(student[s], teacher[t])
            yield adapter(smaller), target


def min_norm(gram: Tensor, steps: int = 32) -> Tensor:
    """Weights on the simplex that minimise ||sum_i a_i g_i||^2: exact for two, Frank-Wolfe for more.

    Args:
        gram: [n, n], <g_i, g_j>; n >= 2.
        steps: of Frank-Wolfe, started from equal weights; line search is exact.

    Returns:
        [n] >= 0 with sum 1.

    Source: Desideri 2012; Sener, Koltun, NeurIPS 2018, arXiv 1810.04650, algorithm 2.
    """
    n = len(gram)
    if n == 2:
        a = ((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]).clamp(min=1e-20)).clamp(0, 1)
        return torch.stack([a, 1 - a])
    weights = torch.full((n,), 1.0 / n, dtype=gram.dtype, device=gram.device)
    position = torch.arange(n, device=gram.device)
    for _ in range(steps):
        corner = (position == (gram @ weights).argmin()).to(gram.dtype)  # indexing would wait for the device
        way = corner - weights
        share = (-(way @ gram @ weights) / (way @ gram @ way).clamp(min=1e-20)).clamp(0, 1)
        weights = weights + share * way
    return weights
