"""Attention transfer as the paper writes it: a norm of the difference, not its mean square (see `at`)."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.distillers.at import attention_map

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """||a_s - a_t||_2 per sample, a = `attention_map` with p = 2.

    Args:
        student: maps [B, C_s, H, W].
        teacher: maps [B, C_t, H, W]; channels need not agree.

    Returns:
        [B], in [0, sqrt 2], zero (with zero gradient) where student = teacher. Its square over H W is
        `attention_loss` of `at`.

    Source: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, equation 2.
    """
    difference = attention_map(student) - attention_map(teacher)
    distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return distance


class AttentionTransferPaper(Distiller):
    """Attention transfer, the paper's equation: distance of normalised energy maps of every stage."""

    name = "at_paper"
    source = "Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            1.0,
            "Factor on the loss. The paper's is 500 / (H W) for a stage: 2.6 at 14 x 14, 10 at 7 x 7.",
            ge=0,
            search=(0.1, 100.0),
            log=True,
            paper="none",
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=None)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": attention_distance(s, t) for i, (s, t) in enumerate(pairs)}
