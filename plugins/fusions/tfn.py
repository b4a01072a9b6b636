"""Tensor fusion network (Zadeh et al.): the outer product of all embeddings, each with a one appended."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param
from wbcbench.errors import IncompatibleError

LIMIT = 131_072
"""Most entries of the outer product."""


def outer(embeddings: list[Tensor]) -> Tensor:
    """Flattened outer product of [1; h_m]: M tensors [B, D_m] -> [B, prod_m (D_m + 1)], the last runs fastest.

    It holds every product of up to M units, one from each modality: singles, pairs, triples.
    Source: Zadeh et al., EMNLP 2017, arXiv 1707.07250, section 4.2.
    """
    product = embeddings[0].new_ones(embeddings[0].shape[0], 1)
    for h in embeddings:
        one = torch.cat([torch.ones_like(h[:, :1]), h], 1)
        product = (product[:, :, None] * one[:, None, :]).flatten(1)
    return product


class TFN(Fusion):
    """Tensor fusion network: one linear layer reads the outer product of all embeddings.

    h = relu(T vec(outer_m [1; A_m h_m])), A_m to d units first (the paper has no A_m; without it the product
    explodes). Refused where (d + 1)^M > 131072. Parameters:
    sum_m [P + S(C_m) + (D_m + 1) d] + ((d + 1)^M + 1) H + (H + 1) K: M backbones.
    """

    name = "tfn"
    source = "Zadeh et al., EMNLP 2017, arXiv 1707.07250, section 4.2"
    traits = FusionTraits(
        stage_maps=False,
        arity=(1, 4),
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        dim: int = param(16, "Units d that each embedding is projected to.", ge=1, search=[8, 16, 32])
        hidden: int = param(64, "Units H after the product.", ge=1, search=[32, 64, 128])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        count = len(task.modalities)
        size = (params.dim + 1) ** count
        if size > LIMIT:
            raise IncompatibleError(
                f"Fusion 'tfn' forms {size} products of {count} x {params.dim} units, more than {LIMIT}. "
                f"Use a smaller `dim`, fewer modalities, or 'lmf', its low-rank form."
            )
        self.encoders = Encoders(task, backbone)
        self.projections = Projections(self.encoders.dims, params.dim)
        self.fuse = nn.Linear(size, params.hidden)
        self.head = nn.Linear(params.hidden, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        projected = self.projections(self.encoders(images))
        return joint(self.task, self.fuse(outer(list(projected.unbind(1)))).relu(), self.head)
