"""FT-Transformer: every number of a vector becomes a token, and a transformer reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Backbone, Features, Parameters, param
from wbcbench.errors import IncompatibleError


class FTTransformer(Backbone):
    """A transformer for modalities that are numbers, each of which becomes a token.

    Token j is b_j + x_j w_j; a class token attends to them in pre-norm blocks, and its last state is embedded.
    T = [CLS; b_1 + x_1 w_1; ..; b_F + x_F w_F]. A block is T + attention(LN(T)), then T + feed-forward(LN(T)) with
    ReGLU; the first block has no norm before its attention. Embedding: ReLU(LN(CLS)), d numbers. Smaller than the
    paper's (d 192, 3 blocks, 8 heads), which was for larger tables.
    """

    name = "ft_transformer"
    aliases = ("fttransformer",)
    source = "Gorishniy et al., NeurIPS 2021, arXiv 2106.11959, section 3.3 and appendix E"
    reads = "vectors"

    class Params(Parameters):
        dim: int = param(64, "Width d of a token.", ge=4, le=1024, search=[32, 64, 128])
        blocks: int = param(2, "Transformer blocks.", ge=1, le=12, search=[1, 2, 3])
        heads: int = param(4, "Attention heads; they divide d.", ge=1, le=16)
        attention_dropout: float = param(0.2, "Share of attention weights that are dropped.", ge=0, lt=1)
        dropout: float = param(0.1, "Share of feed-forward units that are dropped.", ge=0, lt=1, search=(0.0, 0.5))

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        if params.dim % params.heads:
            raise IncompatibleError(
                f"Width {params.dim} cannot be split over {params.heads} attention heads. Choose heads that "
                "divide it."
            )
        self.dim = params.heads * max(1, round(params.dim * width / params.heads))
        bound = self.dim**-0.5
        self.weight = nn.Parameter(torch.empty(in_chans, self.dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(in_chans, self.dim).uniform_(-bound, bound))
        self.cls = nn.Parameter(torch.empty(1, self.dim).uniform_(-bound, bound))
        self.blocks = nn.ModuleList(Block(self.dim, params, first=i == 0) for i in range(params.blocks))
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        tokens = self.bias + x[:, :, None] * self.weight
        tokens = torch.cat([self.cls.to(tokens.dtype).expand(x.shape[0], 1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return Features(embedding=F.relu(self.norm(tokens[:, 0])))


class Block(nn.Module):
    """Pre-norm attention and ReGLU feed-forward, [B, N, d] -> [B, N, d]."""

    def __init__(self, dim: int, params: FTTransformer.Params, first: bool) -> None:
        super().__init__()
        self.heads, self.attention_dropout = params.heads, params.attention_dropout
        hidden = max(2, dim * 4 // 3)
        self.before = nn.Identity() if first else nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.into, self.back = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x: Tensor) -> Tensor:
        rows, count, dim = x.shape
        parts = self.query_key_value(self.before(x)).view(rows, count, 3, self.heads, dim // self.heads)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
        dropped = self.attention_dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, count, dim))
        value, gate = self.into(self.norm(x)).chunk(2, -1)
        update: Tensor = self.back(self.dropout(value * F.relu(gate)))
        return x + update
