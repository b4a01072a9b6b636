"""Neuron selectivity transfer: the channels of both networks as samples of one distribution (Huang & Wang)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def selectivity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the unit channel maps, kernel k(a, b) = <a, b>^2, per sample.

    mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(s_c, t_c'). The first part is a constant: it
    makes the value zero at a perfect match and has no gradient.

    Args:
        student: maps [B, C_s, H, W].
        teacher: maps [B, C_t, H, W]; channels need not agree.

    Returns:
        [B], in [0, 2], zero where student = teacher. Invariant to the order of channels and to a factor,
        of either sign, on each.

    Source: Huang & Wang, arXiv 1707.01219, equation 8 with the polynomial kernel d = 2, c = 0.
    """
    s, t = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.transpose(1, 2)).pow(2).mean((1, 2))

    return mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)


class SelectivityTransfer(Distiller):
    """Neuron selectivity transfer: maximum mean discrepancy between channel maps of every stage."""

    name = "nst"
    source = "Huang & Wang, arXiv 1707.01219, eq. 8, polynomial kernel"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            50.0, "Factor on the loss; that of RepDistiller.", ge=0, search=(1.0, 500.0), log=True
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=None)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        pairs = self.stages(student.maps, teacher.maps)
        return {f"stage{i}": selectivity_loss(s, t) for i, (s, t) in enumerate(pairs)}
