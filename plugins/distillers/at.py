"""Attention transfer: where a network looks, as energy per position (Zagoruyko & Komodakis).

The authors' code compares maps by their mean squared difference (here); their paper by a norm (`at_paper`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def attention_map(maps: Tensor, power: int = 2) -> Tensor:
    """Unit vector over positions of mean_c |F|^p.

    Args:
        maps: [B, C, H, W].
        power: p >= 1; higher attends to the strongest channels.

    Returns:
        [B, H W], >= 0, of length 1 (0 for an all-zero map). Invariant to the order and signs of channels and
        to a factor on a sample.

    Source: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, section 3.1.
    """
    return F.normalize(maps.abs().pow(power).mean(1).flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor, power: int = 2) -> Tensor:
    """mean_hw (a_s - a_t)^2 per sample, a = `attention_map`.

    Args:
        student: maps [B, C_s, H, W].
        teacher: maps [B, C_t, H, W]; channels need not agree.
        power: p of the attention map.

    Returns:
        [B], in [0, 2 / (H W)], zero where student = teacher.

    Source: the code published with arXiv 1612.03928.
    """
    return (attention_map(student, power) - attention_map(teacher, power)).pow(2).mean(1)


class AttentionTransfer(Distiller):
    """Attention transfer, the authors' code: mean squared difference of normalised energy maps of every stage."""

    name = "at"
    source = "Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, the authors' code"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            1000.0, "Factor on the loss; that of the authors' code.", ge=0, search=(10.0, 1e4), log=True
        )
        power: int = param(
            2, "p of the energy |F|^p; higher attends to the strongest channels.", ge=1, search=[1, 2, 4]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=None)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": attention_loss(s, t, self.params.power) for i, (s, t) in enumerate(pairs)}
