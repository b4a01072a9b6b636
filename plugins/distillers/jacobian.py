"""Jacobian matching: the student's input gradient points where the teacher's does (Srinivas and Fleuret 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, input_gradient, param
from wbcbench.errors import IncompatibleError


def direction_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """|g_s / |g_s| - g_t / |g_t||^2 = 2 - 2 cos(g_s, g_t).

    Args:
        student, teacher: gradients [B, P]; no gradient is expected to flow into the teacher's.

    Returns:
        [B] in [0, 4]; where one of the gradients is zero, 1; where both are, 0.

    Source: Srinivas and Fleuret, arXiv 1803.00443: the squared distance of normalised Jacobians.
    """
    return (F.normalize(student, dim=1) - F.normalize(teacher, dim=1)).square().sum(1)


class Jacobian(Distiller):
    """|| d z_s[c] / dx, normalised, - d z_t[c] / dx, normalised ||^2, c the class that the teacher ranks first.

    z are logits and x the images that student and teacher both read. The whole Jacobian has a row per class and
    costs a backward pass for each; as in the paper, one row stands for it. Combine it with a loss on logits, as in
    `--kd logits+jacobian`, since it says nothing about their level.
    """

    name = "jacobian"
    source = "Srinivas, Fleuret, ICML 2018, arXiv 1803.00443"
    needs = Needs(student=("logits", "inputs"), teacher=("logits", "inputs"))

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 100.0), log=True, paper="none")

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        both = sorted(set(student.inputs) & set(teacher.inputs))
        if not both:
            raise IncompatibleError(
                f"jacobian compares gradients in the same images, but the student reads "
                f"{sorted(student.inputs)} and the teacher {sorted(teacher.inputs)}. Give each head a teacher "
                "of its own modality."
            )
        first = teacher.logits.detach().argmax(1, keepdim=True)
        mine, theirs = (input_gradient(out, out.logits.gather(1, first)[:, 0], both) for out in (student, teacher))
        return {"direction": direction_gap(mine, theirs.detach())}
