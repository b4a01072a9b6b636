"""Multi-modal factorised bilinear pooling (Yu et al. 2017) of two embeddings."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, joint

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def squeeze(expanded: Tensor, factors: int) -> Tensor:
    """Sum each k neighbours, then signed square root, then unit length: [B, k O] -> [B, O].

    Sum pooling of U'x * V'y with k factors is, for each output, the bilinear form x' U_o V_o' y of rank k. The
    square root's slope is held finite at zero. Source: Yu et al., ICCV 2017, arXiv 1708.01471, eq. 3-4.
    """
    z = expanded.reshape(expanded.shape[0], -1, factors).sum(2)
    return F.normalize(z.sign() * (z.abs() + 1e-6).sqrt(), dim=1)


class MFB(Fusion):
    """Multi-modal factorised bilinear pooling: a low-rank bilinear form of two embeddings per output unit.

    z = l2(signed sqrt(sumpool_k(drop(U h_1 * V h_2)))), p = softmax(W z), for exactly two modalities. U and V
    have biases, so that each modality also acts by itself. Parameters:
    sum_m [P + S(C_m) + (D_m + 1) k O] + (O + 1) K: two backbones.
    """

    name = "mfb"
    source = "Yu et al., ICCV 2017, arXiv 1708.01471, eq. 3-4"
    traits = FusionTraits(
        stage_maps=False,
        arity=(2, 2),
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        factors: int = param(5, "Rank k of each output's bilinear form.", ge=1, search=[1, 2, 5])
        out: int = param(128, "Outputs O (the paper: 1000).", ge=1, search=[64, 128, 256])
        dropout: float = param(0.1, "Dropout of the expanded product, in training.", ge=0, lt=1, search=(0.0, 0.5))

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        expanded = params.factors * params.out
        self.first, self.second = (nn.Linear(d, expanded) for d in self.encoders.dims)
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Linear(params.out, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        first, second = self.encoders(images)
        expanded = self.dropout(self.first(first) * self.second(second))
        return joint(self.task, squeeze(expanded, self.params.factors), self.head)
