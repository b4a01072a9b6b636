"""Hints: a student's stage map regresses the teacher's (FitNets).

The paper trains the hint first and the task afterwards; here both are trained at once, as public libraries do.
"""

from __future__ import annotations

import math

from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import conv1x1, pair_stages, same_size


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_chw (F_s - F_t)^2 per sample.

    Args:
        student: maps [B, C, H, W], in the teacher's channels.
        teacher: maps [B, C, H, W].

    Returns:
        [B], each >= 0, zero where student = teacher. The mean over elements in place of the paper's half
        sum, so that the size does not depend on the resolution.

    Source: Romero et al., ICLR 2015, arXiv 1412.6550, equation 3.
    """
    return (student - teacher).pow(2).flatten(1).mean(1)


class FitNet(Distiller):
    """Hint regression: mean squared distance of the maps of one stage, the middle one by default."""

    name = "fitnet"
    aliases = ("hint",)
    source = "Romero et al., ICLR 2015, arXiv 1412.6550, eq. 3"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            100.0, "Factor on the loss; that of RepDistiller.", ge=0, search=(1.0, 1000.0), log=True
        )
        depth: float = param(
            0.5, "Which paired stage is the hint: 0 the shallowest, 1 the deepest.", ge=0, le=1, search=(0.0, 1.0)
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        stages = pair_stages(len(pair.student_maps), len(pair.teacher_maps))
        self.hint, self.target = stages[math.floor(self.params.depth * (len(stages) - 1) + 0.5)]
        self.regressor = conv1x1(pair.student_maps[self.hint][0], pair.teacher_maps[self.target][0])

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        guess, target = same_size(student.maps[self.hint], teacher.maps[self.target])
        return {"hint": hint_loss(self.regressor(guess), target)}
