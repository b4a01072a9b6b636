"""Multiplicative interactions (Jayakumar et al.): a full bilinear layer of two embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, joint

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def interact(x: Tensor, z: Tensor, w: Tensor, u: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """z' W x + U z + V x + b: a linear map of x whose weights and bias are linear in z, and the other way round.

    x: [B, D1]; z: [B, D2]; w: [D2, D1, H]; u: [D2, H]; v: [D1, H]; b: [H]. Returns [B, H].
    Source: Jayakumar et al., ICLR 2020 (Multiplicative Interactions and Where to Find Them), eq. 1.
    """
    return torch.einsum("bi,ijh,bj->bh", z, w, x) + z @ u + x @ v + b


class Multiplicative(Fusion):
    """Multiplicative interactions: a full bilinear layer of two embeddings, with its linear terms and bias.

    h = h_2' W h_1 + U h_2 + V h_1 + b, p = softmax(W' relu(h)), for exactly two modalities. Embeddings are
    first projected to d units (`dim`; not in the paper), for D D H weights outweigh a backbone. Parameters:
    sum_m [P + S(C_m) + (D_m + 1) d] + (d^2 + 2 d + 1) H + (H + 1) K: two backbones; without projection
    D_1 D_2 H + (D_1 + D_2 + 1) H instead.
    """

    name = "multiplicative"
    source = "Jayakumar et al., ICLR 2020, eq. 1"
    traits = FusionTraits(
        stage_maps=False,
        arity=(2, 2),
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        dim: int = param(64, "Units d of a projection of each embedding; 0: none.", ge=0, search=[32, 64, 128])
        hidden: int = param(64, "Units H of the bilinear layer.", ge=1, search=[32, 64, 128])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        dims = self.encoders.dims
        self.first, self.second = (nn.Linear(d, params.dim) if params.dim else nn.Identity() for d in dims)
        d1, d2 = (params.dim or d for d in dims)
        self.w = nn.Parameter(torch.randn(d2, d1, params.hidden) * (d1 * d2) ** -0.5)
        self.u = nn.Parameter(torch.randn(d2, params.hidden) * d2**-0.5)
        self.v = nn.Parameter(torch.randn(d1, params.hidden) * d1**-0.5)
        self.b = nn.Parameter(torch.zeros(params.hidden))
        self.head = nn.Linear(params.hidden, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        first, second = self.encoders(images)
        fused = interact(self.first(first), self.second(second), self.w, self.u, self.v, self.b)
        return joint(self.task, fused.relu(), self.head)
