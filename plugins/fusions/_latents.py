"""A few learned latents that read tokens by cross-attention; shared by perceiver and healnet."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._tokens import attend


class LatentAttention(nn.Module):
    """Pre-norm attention from latents to a context of the same width: LN(x) asks, LN(context) answers.

    Norms of latents and context are separate, queries, keys and values have no bias. `temperature` divides the
    scores, `slope` is of a leaky ReLU after the last layer (1: none). Parameters: 4 d^2 + 5 d.
    """

    def __init__(self, dim: int, heads: int, temperature: float = 1.0, slope: float = 1.0) -> None:
        super().__init__()
        self.heads, self.temperature, self.slope = heads, temperature, slope
        self.norm, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, allowed: Tensor | None = None) -> Tensor:
        """x [B, n, d], context [B, L, d], which of it may be read [B, L] -> what is added to x."""
        k, v = self.key_value(self.norm_context(context)).chunk(2, 2)
        q = self.query(self.norm(x)) / self.temperature
        return F.leaky_relu(self.out(attend(q, k, v, self.heads, allowed)), self.slope)


class GatedFeedForward(nn.Module):
    """Pre-norm W_2 (a * f(b)), [a; b] = W_1 LN(x), each 4 d wide. Parameters: 12 d^2 + 11 d."""

    def __init__(self, dim: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.norm = nn.LayerNorm(dim)
        self.expand, self.reduce = nn.Linear(dim, 8 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.expand(self.norm(x)).chunk(2, -1)
        update: Tensor = self.reduce(a * self.activation(b))
        return update
