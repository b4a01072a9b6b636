"""A transformer over one token per modality and a class token (as AutoGluon's fusion transformer)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint, mask_of

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param
from wbcbench.errors import UsageError


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v over the tokens that may be read.

    q, k, v: [B, heads, T, d]; `keys`: [B, T] bool, some true in every row. Returns [B, heads, T, d].
    Source: Vaswani et al., NeurIPS 2017, arXiv 1706.03762, eq. 1.
    """
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    return torch.where(keys[:, None, None], scores, -torch.inf).softmax(3) @ v


class Block(nn.Module):
    """A pre-norm transformer layer of width H: 12 H^2 + 13 H parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """[B, T, H] and which tokens may be read [B, T] -> [B, T, H]."""
        split = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1))  # [B, T, 3, heads, d]
        q, k, v = split.permute(2, 0, 3, 1, 4)
        tokens = tokens + self.out(attend(q, k, v, keys).transpose(1, 2).flatten(2))
        changed: Tensor = tokens + self.reduce(F.gelu(self.expand(self.norm2(tokens))))
        return changed


class TokenTransformer(Fusion):
    """A transformer over a class token and one token per modality; the class token is read out.

    h = LN(transformer([CLS; A_1 h_1; ..; A_M h_M])_CLS), p = softmax(W h). Tokens of absent modalities are
    not read. The bias of A_m tells the modalities apart. Parameters, for L layers of width H:
    sum_m [P + S(C_m) + (D_m + 1) H] + H + L (12 H^2 + 13 H) + 2 H + (H + 1) K: M backbones.
    """

    name = "token_transformer"
    source = "fusion transformer of AutoGluon-Multimodal; Vaswani et al., arXiv 1706.03762"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        width: int = param(64, "Token width H, a multiple of `heads`.", ge=1, search=[64, 128, 192])
        layers: int = param(1, "Transformer layers L.", ge=1, search=[1, 2, 3])
        heads: int = param(4, "Attention heads.", ge=1, search=[2, 4, 8])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        if params.width % params.heads:
            raise UsageError(f"Expected `width` to be a multiple of `heads`: {params.width}, {params.heads}.")
        self.encoders = Encoders(task, backbone)
        self.projections = Projections(self.encoders.dims, params.width)
        self.cls = nn.Parameter(torch.randn(params.width) * 0.02)
        self.blocks = nn.ModuleList(Block(params.width, params.heads) for _ in range(params.layers))
        self.norm = nn.LayerNorm(params.width)
        self.head = nn.Linear(params.width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        projected, mask = self.projections(embeddings), mask_of(embeddings, present)
        tokens = torch.cat([self.cls.to(projected.dtype).expand(projected.shape[0], 1, -1), projected], 1)
        keys = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        for block in self.blocks:
            tokens = block(tokens, keys)
        return joint(self.task, self.norm(tokens[:, 0]), self.head)
