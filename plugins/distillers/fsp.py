"""Flow of the solution procedure: how the channels of one stage relate to the next one's (Yim et al.).

The paper trains with this loss first and then on the task; here both are trained at once. `fsp` is the
mean square of the paper's matrices, `fsp_td` (torchdistill) a sum of column norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages, same_size
from wbcbench.errors import IncompatibleError


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """F_1 F_2^T / (H W): inner products of channels of two stages.

    Args:
        first: maps [B, C_1, H_1, W_1].
        second: maps [B, C_2, H_2, W_2]; both are average-pooled to the smaller size.

    Returns:
        [B, C_1, C_2].

    Source: Yim et al., CVPR 2017, "A Gift from Knowledge Distillation", equation 1.
    """
    a, b = (x.flatten(2) for x in same_size(first, second))
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


def flow_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_cc' (G_s - G_t)^2 per sample, of flow matrices [B, C_1, C_2]; [B], >= 0.

    Source: Yim et al., CVPR 2017, equation 2.
    """
    return (student - teacher).pow(2).mean((1, 2))


def flow_column_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_c' ||(G_s - G_t)[:, c']||_2 per sample, of flow matrices [B, C_1, C_2]; [B], >= 0.

    Source: torchdistill, losses/mid_level.py, FSPLoss.
    """
    distances: Tensor = torch.linalg.vector_norm(student - teacher, dim=1)
    return distances.sum(1)


class _Flows(Stages):
    """Yields (student matrix, teacher matrix) of every two consecutive stages."""

    def __init__(self, pair: PairShapes) -> None:
        super().__init__(pair)
        if len(self) < 2:
            raise IncompatibleError(
                "fsp relates one stage to the next, but student and teacher share a single stage. Choose another "
                "distiller of maps (fitnet, at), or a backbone with more stages."
            )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        maps = list(super().forward(student, teacher))
        for (s, t), (s_next, t_next) in pairwise(maps):
            yield flow_matrix(s, s_next), flow_matrix(t, t_next)


class Flow(Distiller):
    """Flow between consecutive stages: mean squared distance of the matrices of channel inner products."""

    name = "fsp"
    source = "Yim et al., CVPR 2017, eq. 1-2"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(
            50.0, "Factor on the loss; that of RepDistiller.", ge=0, search=(0.5, 500.0), log=True
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.flows = _Flows(pair)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        flows = self.flows(student.maps, teacher.maps)
        return {f"stage{i}": flow_loss(s, t) for i, (s, t) in enumerate(flows)}


class FlowColumns(Distiller):
    """Flow between consecutive stages, torchdistill's form: summed distances of the matrices' columns."""

    name = "fsp_td"
    source = "torchdistill, losses/mid_level.py, after Yim et al., CVPR 2017"
    needs = Needs(student=("maps",), teacher=("maps",))

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.flows = _Flows(pair)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        flows = self.flows(student.maps, teacher.maps)
        return {f"stage{i}": flow_column_loss(s, t) for i, (s, t) in enumerate(flows)}
