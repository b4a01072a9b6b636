"""Tokens of the backbones' last maps, and transformer parts; shared by fusions of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import keep_stages

from wbcbench.contracts import Backbone, BackboneFactory, PerModality, Task
from wbcbench.errors import IncompatibleError


class TokenTrunk(nn.Module):
    """A backbone up to its last map, whose places become tokens: image -> [B, N, d]. A vector becomes one token.

    Parameters: P + S(C) + (D + 1) d + N d for the projection and the learned positions. Runs stage by stage
    where the backbone can (what follows the last stage is then taken out); else through `forward(maps=True)`,
    and parameters that do not reach the last map are frozen.
    """

    def __init__(self, net: Backbone, shape: tuple[int, ...], dim: int) -> None:
        """`shape`: of one image or vector."""
        super().__init__()
        self.vector = len(shape) == 1
        if net.stage_count:
            keep_stages(net, range(net.stage_count), (shape[0], shape[1], shape[2]))
        self.net = net
        was_training = net.training
        net.eval()
        last = self.last_map(torch.zeros(1, *shape))
        everything = [p for p in net.parameters() if p.requires_grad]
        found = torch.autograd.grad(last.sum(), everything, allow_unused=True) if everything else ()
        for p, g in zip(everything, found, strict=True):
            p.requires_grad_(g is not None)
        net.train(was_training)
        self.project = nn.Linear(last.shape[1], dim)
        self.positions = nn.Parameter(0.02 * torch.randn(last.shape[2] * last.shape[3], dim))

    def last_map(self, x: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, D, H, W]; a vector [B, F] -> [B, D, 1, 1]."""
        if self.vector:
            return self.net(x).embedding[:, :, None, None]  # type: ignore[no-any-return]
        if not self.net.stage_count:
            return self.net(x, maps=True).maps[-1]  # type: ignore[no-any-return]
        for number in range(self.net.stage_count):
            x = self.net.stage(number, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.project(self.last_map(x).flatten(2).transpose(1, 2)) + self.positions
        return tokens


def token_trunks(task: Task, backbone: BackboneFactory, dim: int) -> PerModality:
    """A token trunk per modality."""
    return PerModality(
        {m: TokenTrunk(backbone(c, modality=m), task.shape(m), dim) for m, c in task.channels.items()}
    )


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """softmax(Q K' / sqrt(d / heads)) V per head; a row without any allowed key gives zero.

    Vaswani et al., arXiv 1706.03762, eq. 1. q: [B, N, d]; k, v: [B, L, d]; allowed: [B, L] bool; returns
    [B, N, d]. Keys that are not allowed change nothing, whatever they hold.
    """
    b, n, d = q.shape
    q, k, v = (t.reshape(b, -1, heads, d // heads).transpose(1, 2) for t in (q, k, v))
    if allowed is None:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
    v = torch.where(allowed[:, None, :, None], v, 0.0)
    scores = (q @ k.transpose(2, 3)) / (d // heads) ** 0.5
    scores = torch.where(allowed[:, None, None, :], scores, torch.finfo(scores.dtype).min)
    return (scores.softmax(3) @ v).transpose(1, 2).reshape(b, n, d)


class Block(nn.Module):
    """Pre-norm transformer block; attends from `x` to `context`. Parameters: 12 d^2 + 13 d."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """x [B, N, d], context [B, L, d] (None: x itself), allowed [B, L] -> [B, N, d]."""
        y = self.norm1(x)
        k, v = self.key_value(y if context is None else self.norm1(context)).chunk(2, 2)
        x = x + self.out(attend(self.query(y), k, v, self.heads, allowed))
        update: Tensor = self.mlp(self.norm2(x))
        return x + update


def check_heads(dim: int, heads: int) -> None:
    """Raises `IncompatibleError` unless the attention heads divide the width."""
    if dim % heads:
        raise IncompatibleError(
            f"Width {dim} cannot be split over {heads} attention heads. Choose heads that divide it."
        )
