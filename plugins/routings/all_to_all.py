"""All to all: every teacher teaches every route at full strength."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Progress, Routing, each_teacher, weighted


class AllToAll(Routing):
    """Every route is taught by all teachers, whatever they read: the sum of their losses.

    sum_k L(student, teacher k): K times `mean`, so that each pair of a route and a teacher weighs what it
    weighs under `matched`.
    """

    name = "all_to_all"
    source = "control: every teacher teaches every route"
    pairing = "all"
    min_teachers = 2

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        ones = torch.ones(len(teachers), device=student.logits.device)
        return weighted(each_teacher(distillers, student, teachers, progress), ones)
