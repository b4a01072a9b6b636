"""Perceiver: a few latents read the tokens of all modalities through one attention, again and again.

Differences from the paper: the tokens are the places of the backbones' last maps (a vector is one token) with
learned positions, not pixels with Fourier features; the learned positions of each modality tell them apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._latents import GatedFeedForward, LatentAttention
from wbcbench_plugins.fusions._modalities import joint
from wbcbench_plugins.fusions._stages import masked
from wbcbench_plugins.fusions._tokens import Block, check_heads, token_trunks

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


class Perceiver(Fusion):
    """Bottleneck latents that attend to all modalities' tokens at once, with weights shared between rounds.

    x <- x + A(x, [t_1; ..; t_M]), x <- x + F(x), then a transformer layer among the latents, `rounds` times;
    p = softmax(W LN(mean x)). Linear in tokens. Parameters: sum_m [P + S(C_m) + (D + 1) d + N d] + n d +
    (4 d^2 + 5 d) + (12 d^2 + 11 d) + (12 d^2 + 13 d) + 2 d + (d + 1) K, with n latents of width d: the same for
    any number of rounds.
    """

    name = "perceiver"
    source = "Jaegle et al., ICML 2021, arXiv 2103.03206, section 3 (weights shared between rounds)"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_parameters",),  # xor is solved in more steps than the contract has time for
        own_backbones=True,
    )

    class Params(Parameters):
        latents: int = param(16, "Latents n (the paper: 512 of width 1024).", ge=1, le=1024, search=[8, 16, 32])
        rounds: int = param(2, "How often the latents read the tokens.", ge=1, le=12, search=[1, 2, 4])
        dim: int = param(64, "Width d of tokens and latents.", ge=4, le=2048, search=[32, 64, 128])
        heads: int = param(4, "Heads of the latents' own attention; must divide `dim`.", ge=1, le=64)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        self.backbones = token_trunks(task, backbone, params.dim)
        self.latents = nn.Parameter(torch.randn(params.latents, params.dim))
        self.cross = LatentAttention(params.dim, heads=1)
        self.feed = GatedFeedForward(params.dim, F.gelu)
        self.block = Block(params.dim, params.heads)
        self.norm = nn.LayerNorm(params.dim)
        self.head = nn.Linear(params.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        tokens, readable = [], []
        for i, m in enumerate(self.task.modalities):
            if m not in self.backbones:
                continue
            tokens.append(self.backbones[m](masked(images[m], present, i)))
            if present is not None:
                readable.append(present[:, i, None].expand(-1, tokens[-1].shape[1]))
        context = torch.cat(tokens, 1)
        allowed = torch.cat(readable, 1) if readable else None
        x = self.latents.to(context.dtype).expand(context.shape[0], -1, -1)
        for _ in range(self.params.rounds):
            x = x + self.cross(x, context, allowed)
            x = x + self.feed(x)
            x = self.block(x)
        return joint(self.task, self.norm(x.mean(1)), self.head)
