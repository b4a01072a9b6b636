"""Attentive feature distillation: channels that matter to the teacher's map count more (Wang et al.)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def attended_loss(student: Tensor, teacher: Tensor, attention: Tensor) -> Tensor:
    """sum_c a_c mean_hw (n(F_s,c) - n(F_t,c))^2 per sample, n a unit vector over positions.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W].
        attention: [B, C], >= 0, rows sum to 1.

    Returns:
        [B], in [0, 4 / (H W)], zero where student = teacher. Invariant to a positive factor on a channel.

    Source: Wang et al., ICLR 2020, "Pay Attention to Features, Transfer Learn Faster CNNs", section 3.2.
    """
    s, t = (F.normalize(x.flatten(2), dim=2, eps=1e-6) for x in (student, teacher))
    return (attention * (s - t).pow(2).mean(2)).sum(1)


class AttentiveFeatures(Distiller):
    """Attentive features: distance of normalised maps, channels weighted by a network of the teacher's map.

    The attention is a squeeze-and-excitation block, as in Knowledge-Distillation-Zoo, which found the paper's
    own unstable. It learns from this loss, which it can lower by favouring channels that match already.
    """

    name = "afd"
    source = "Wang et al., ICLR 2020, openreview ryxyCeHtPB"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True)

    class Params(DistillerParams):
        weight: float = param(
            500.0, "Factor on the loss, which is of the order 1 / (H W).", ge=0, search=(5.0, 5000.0), log=True
        )
        width: float = param(
            1.0, "Hidden units of the attention, as a share of the channels.", gt=0, le=4, search=[0.25, 0.5, 1.0]
        )
        stages: Literal["last", "all"] = param(
            "last", "The deepest stage, or all paired ones.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, which=self.params.stages)
        widths = [pair.teacher_maps[t][0] for _, t in self.stages.indices]
        self.attention = nn.ModuleList(self._attention(c, max(1, round(c * self.params.width))) for c in widths)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = zip(self.attention, self.stages(student.maps, teacher.maps), strict=True)
        return {f"stage{i}": attended_loss(s, t, network(t)) for i, (network, (s, t)) in enumerate(pairs)}

    @staticmethod
    def _attention(channels: int, hidden: int) -> nn.Module:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(
            pooled, nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Softmax(1)
        )
