"""Activation boundaries: which neurons fire, not how strongly (Heo, Lee, Yun, Choi).

The paper trains with this loss first and then on the task; here both are trained at once.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages, conv1x1


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """sum_chw of (F_s + m)^2 where F_t <= 0 and F_s > -m, and (F_s - m)^2 where F_t > 0 and F_s <= m, per sample.

    Args:
        student: maps before activation, [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W], of which the sign alone is read: max(F_t, 0) gives the same value.
        margin: m >= 0, how far on its side of the boundary a student's neuron is pushed.

    Returns:
        [B], each >= 0, zero where every neuron is on the teacher's side by the margin. A squared hinge.

    Source: Heo et al., AAAI 2019, arXiv 1811.03233, equation 4.
    """
    fires = teacher > 0
    slack = F.relu((margin - student).where(fires, margin + student))
    return slack.pow(2).flatten(1).sum(1)


def connector(given: int, wanted: int) -> nn.Module:
    """[B, given, H, W] -> [B, wanted, H, W], of both signs: a 1x1 convolution with batch normalisation."""
    return nn.Sequential(nn.Conv2d(given, wanted, 1, bias=False), nn.BatchNorm2d(wanted))


class ActivationBoundary(Distiller):
    """Activation boundaries: a squared hinge that puts each neuron on the teacher's side of zero.

    The sign of the teacher's maps is all that is read, so maps after a ReLU serve as well as those before.
    The student's need both signs: the connector, which the paper always learns, gives them. A teacher's
    larger map is max-pooled, which keeps "something fires here" whichever side of the ReLU it comes from.
    Stage i of n counts 2^(i - n + 1), as in the reference code.
    """

    name = "ab"
    source = "Heo et al., AAAI 2019, arXiv 1811.03233, eq. 4"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            0.003, "Factor on the loss; that of RepDistiller.", ge=0, search=(1e-5, 0.1), log=True
        )
        margin: float = param(1.0, "How far on its side a neuron is pushed.", ge=0, search=(0.1, 4.0), log=True)
        adapter: Literal["learned", "identity_if_equal"] = param(
            "learned", "Connect by a learned layer (the paper's), or by none where widths agree."
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=connector if self.params.adapter == "learned" else conv1x1)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        found = {}
        pairs = self.stages(student.maps, teacher.maps)
        for i, ((s, _), (_, t)) in enumerate(zip(pairs, self.stages.indices, strict=True)):
            target = F.adaptive_max_pool2d(teacher.maps[t], s.shape[2:])
            share = 2.0 ** (i - len(self.stages) + 1)
            found[f"stage{i}"] = share * boundary_loss(s, target, self.params.margin)
        return found
