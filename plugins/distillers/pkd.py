"""Pearson correlation distillation: maps compared after standardising each channel (Cao et al.)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages

EPS = 1e-6


def standardised(maps: Tensor) -> Tensor:
    """Each channel with mean 0 and deviation 1 over the batch and all positions; [B, C, H, W] -> the same.

    A constant channel becomes zero.
    """
    mean = maps.mean((0, 2, 3), keepdim=True)
    return (maps - mean) / (maps.std((0, 2, 3), keepdim=True) + EPS)


def pearson_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1/2 mean_chw (z_s - z_t)^2 per sample, z = `standardised`.

    Args:
        student: maps [B, C, H, W], in the teacher's channels; B H W >= 2.
        teacher: maps [B, C, H, W].

    Returns:
        [B], each >= 0, zero where student = teacher. Its mean is (1 - mean correlation of the channels)
        (n - 1) / n with n = B H W, so it is invariant to a positive factor and a shift of each channel.

    Source: Cao et al., NeurIPS 2022, arXiv 2207.02039, equations 2 to 4.
    """
    return (standardised(student) - standardised(teacher)).pow(2).flatten(1).mean(1) / 2


class Pearson(Distiller):
    """Pearson correlation of maps: half the mean squared distance of standardised channels."""

    name = "pkd"
    source = "Cao et al., NeurIPS 2022, arXiv 2207.02039, eq. 2-4"
    needs = Needs(student=("maps",), teacher=("maps",), min_batch=2)

    class Params(DistillerParams):
        weight: float = param(6.0, "Factor on the loss; that of MMRazor.", ge=0, search=(0.1, 100.0), log=True)
        stages: Literal["last", "all"] = param(
            "all", "All paired stages (the paper's), or the deepest alone.", search=["last", "all"]
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, which=self.params.stages)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": pearson_loss(s, t) for i, (s, t) in enumerate(pairs)}
