"""my_method: state in one line what it does.

Start from here. The contract is `wbcbench.contracts.Distiller`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def softened_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Squared distance of softened probabilities, [B] from logits [B, K]; zero where student = teacher."""
    p_s, p_t = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return (p_s - p_t).square().sum(1) * temperature**2


class MyMethod(Distiller):
    """Squared distance between the softened class probabilities of student and teacher."""

    name = "my_method"

    class Params(DistillerParams):
        # `weight` is inherited: the core multiplies the whole loss by it.
        # Set by `--kd my_method:temperature=2`.
        # `search`: the values that `wbcbench search` tries.
        temperature: float = param(4.0, "High: softens more.", gt=0, search=(1.0, 20.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        # Named losses, one number per cell [B] or a scalar. The teacher arrives detached, in float32.
        # Never .item() or `if tensor`: the program would wait for the device in every step.
        return {"distance": softened_distance(student.logits, teacher.logits, self.params.temperature)}

    # What else `terms` reads (embeddings, maps, labels, cell ids, random numbers) is declared in
    # `needs = Needs(...)`; adapters are built in `setup`. The guide "The contracts" describes both.
