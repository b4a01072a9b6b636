"""Semantic calibration: attention decides which teacher stage each student stage follows (Chen et al.)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import conv1x1, pair_stages, same_size


def stage_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax_t (<q_s, k_t> / sqrt d): how much each student stage follows each teacher stage.

    Args:
        queries: [B, S, d], one per student stage.
        keys: [B, T, d], one per teacher stage.

    Returns:
        [B, S, T], rows sum to 1.

    Source: Chen et al., AAAI 2021, arXiv 2012.03236, equation 6.
    """
    return torch.softmax(torch.bmm(queries, keys.transpose(1, 2)) / queries.shape[2] ** 0.5, 2)


def calibrated_loss(attention: Tensor, distances: Tensor) -> Tensor:
    """sum_t a_st d_st per sample and student stage.

    Args:
        attention: [B, S, T], rows sum to 1.
        distances: [B, S, T], mean squared distances, >= 0.

    Returns:
        [B, S], between the smallest and the largest distance of each row.

    Source: Chen et al., arXiv 2012.03236, equation 4.
    """
    return (attention * distances).sum(2)


class SemanticCalibration(Distiller):
    """Semantic calibration: mean squared distance over all pairs of stages, weighted by attention per sample.

    The reference code attends by rows of the batch's similarity matrix, whose length fixes the batch size.
    Here queries and keys are linear in each stage's pooled map, so any batch will do.
    """

    name = "semckd"
    source = "Chen et al., AAAI 2021, arXiv 2012.03236, eq. 4-6"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True)

    class Params(DistillerParams):
        weight: float = param(400.0, "Factor on the loss; the paper's.", ge=0, search=(4.0, 4000.0), log=True)
        width: int = param(128, "Length of queries and keys.", ge=1, search=[32, 64, 128, 256])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        student, teacher = ([shape[0] for shape in maps] for maps in (pair.student_maps, pair.teacher_maps))
        pair_stages(len(student), len(teacher))  # refuses a network without stages
        self.queries = nn.ModuleList(nn.Linear(c, self.params.width) for c in student)
        self.keys = nn.ModuleList(nn.Linear(c, self.params.width) for c in teacher)
        self.adapters = nn.ModuleList(conv1x1(s, t) for s in student for t in teacher)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        queries, keys = (
            torch.stack([layer(x.mean((2, 3))) for layer, x in zip(layers, maps, strict=True)], 1)
            for layers, maps in ((self.queries, student.maps), (self.keys, teacher.maps))
        )
        met = zip(self.adapters, product(student.maps, teacher.maps), strict=True)
        distances = torch.stack([self._distance(adapter, s, t) for adapter, (s, t) in met], 1)
        attention = stage_attention(queries, keys)
        loss = calibrated_loss(attention, distances.view_as(attention))
        return {f"stage{i}": x for i, x in enumerate(loss.unbind(1))}

    @staticmethod
    def _distance(adapter: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = same_size(student, teacher)
        distance: Tensor = (adapter(s) - t).pow(2).flatten(1).mean(1)
        return distance
