"""Low-rank multimodal fusion (Liu et al.): the outer product of all embeddings, read without forming it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, joint

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def low_rank(embeddings: list[Tensor], factors: list[Tensor], weights: Tensor, bias: Tensor) -> Tensor:
    """sum_r w_r prod_m ([1; h_m] F_m^r) + b, what a linear layer of rank r makes of the outer product (`tfn`).

    Args:
        embeddings: M tensors [B, D_m]. An absent one is zero: just the first row of its factor acts.
        factors: M tensors [r, D_m + 1, H], first row for the one.
        weights: [r].
        bias: [H].

    Returns:
        [B, H].

    Source: Liu et al., ACL 2018, arXiv 1806.00064, section 3.2.
    """
    product: Tensor | None = None
    for h, factor in zip(embeddings, factors, strict=True):
        term = torch.einsum("bd,rdh->brh", torch.cat([torch.ones_like(h[:, :1]), h], 1), factor)
        product = term if product is None else product * term
    assert product is not None
    return torch.einsum("r,brh->bh", weights, product) + bias


class LMF(Fusion):
    """Low-rank multimodal fusion: tensor fusion with a layer of rank r, linear in the number of modalities.

    h = sum_r w_r prod_m ([1; h_m] F_m^r) + b, p = softmax(W h). The factors' rows for the one start at 1, so
    that h starts near a sum of linear maps (the paper: Xavier everywhere, products of small numbers).
    Parameters: sum_m [P + S(C_m) + r (D_m + 1) H] + r + H + (H + 1) K: M backbones.
    """

    name = "lmf"
    source = "Liu et al., ACL 2018, arXiv 1806.00064, section 3.2"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        rank: int = param(4, "Rank r of the layer.", ge=1, search=[1, 2, 4, 8, 16])
        hidden: int = param(64, "Units H after fusion.", ge=1, search=[32, 64, 128])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        self.factors = nn.ParameterList(self._factor(d, params.rank, params.hidden) for d in self.encoders.dims)
        self.weights = nn.Parameter(torch.full((params.rank,), 1 / params.rank))
        self.bias = nn.Parameter(torch.zeros(params.hidden))
        self.head = nn.Linear(params.hidden, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        fused = low_rank(self.encoders(images, present), list(self.factors), self.weights, self.bias)
        return joint(self.task, fused, self.head)

    @staticmethod
    def _factor(dim: int, rank: int, hidden: int) -> nn.Parameter:
        factor = torch.randn(rank, dim + 1, hidden) * dim**-0.5
        factor[:, 0] = 1.0
        return nn.Parameter(factor)
