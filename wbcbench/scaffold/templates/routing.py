"""my_method: state in one line what it does.

Start from here. The contract is `wbcbench.contracts.Routing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Parameters, Progress, Routing, each_teacher, param, weighted


def sureness(logits: Tensor, sharpness: float) -> Tensor:
    """[K, B] weights that sum to one over the K teachers, from their logits [K, B, C]; higher if confident."""
    surest = logits.softmax(2).amax(2)
    return (sharpness * surest).softmax(0)


class MyMethod(Routing):
    """Every route is taught by all teachers; for each cell, the more confident a teacher, the more it counts."""

    name = "my_method"
    source = ""  # paper and equation, shown by `wbcbench show`
    pairing = "all"  # "own": a modality's route learns from the teachers of that modality only

    class Params(Parameters):
        # Set by `--routing my_method:sharpness=2`.
        # `search`: the values that `wbcbench search` tries.
        sharpness: float = param(1.0, "0: all teachers weigh the same.", ge=0, search=(0.1, 10.0), log=True)

    params: Params

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        # The losses of each teacher separately, as the chosen distiller computes them: [B] or scalars.
        each = each_teacher(distillers, student, teachers, progress)
        logits = torch.stack([teacher.logits for teacher in teachers])  # they arrive detached
        return weighted(each, sureness(logits, self.params.sharpness))
