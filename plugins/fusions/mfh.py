"""Multi-modal factorised high-order pooling (Yu et al. 2018): a cascade of bilinear poolings, concatenated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint
from wbcbench_plugins.fusions.mfb import squeeze

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


class MFH(Fusion):
    """Multi-modal factorised high-order pooling: q chained bilinear poolings of two embeddings, concatenated.

    e_i = e_{i-1} * drop(U_i h_1 * V_i h_2), e_0 = 1; z = [squeeze(e_1); ..; squeeze(e_q)], with sum pooling,
    signed square root and unit length as in `mfb`, which is q = 1; for exactly two modalities. Parameters:
    sum_m [P + S(C_m) + q (D_m + 1) k O] + (q O + 1) K: two backbones.
    """

    name = "mfh"
    source = "Yu et al., TNNLS 2018, arXiv 1708.03619, section III-C"
    traits = FusionTraits(
        stage_maps=False,
        arity=(2, 2),
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        order: int = param(2, "Poolings q in the cascade.", ge=1, search=[1, 2, 3])
        factors: int = param(5, "Rank k of each output's bilinear form.", ge=1, search=[1, 2, 5])
        out: int = param(128, "Outputs O per pooling (the paper: 1000).", ge=1, search=[64, 128, 256])
        dropout: float = param(0.1, "Dropout of every product, in training.", ge=0, lt=1, search=(0.0, 0.5))

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        expanded = params.factors * params.out
        self.blocks = nn.ModuleList(Projections(self.encoders.dims, expanded) for _ in range(params.order))
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Linear(params.order * params.out, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images)
        expanded, pooled = 1.0, []
        for block in self.blocks:
            expanded = expanded * self.dropout(block(embeddings).prod(1))
            pooled.append(squeeze(expanded, self.params.factors))
        return joint(self.task, torch.cat(pooled, 1), self.head)
