"""HEALNet: latents shared by all modalities, updated by one after the other in every layer (Hemker et al. 2024).

Differences from the paper: the tokens are the places of the backbones' last maps (a vector is one token) with
learned positions, not pixels with Fourier features. Defaults are of the size that the authors found by searching
(17 to 25 latents, two layers, one head, no attention among latents), not those of their class. The updates of an
absent modality are left out; the authors' code does so where an exception is raised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._latents import GatedFeedForward, LatentAttention
from wbcbench_plugins.fusions._modalities import joint
from wbcbench_plugins.fusions._stages import masked
from wbcbench_plugins.fusions._tokens import check_heads, token_trunks

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Outputs,
    Parameters,
    PerModality,
    Task,
    param,
)


class Update(nn.Module):
    """x + A(x, tokens), then x + F(x): attention at temperature 0.5, self-normalising gates."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = LatentAttention(dim, heads, temperature=0.5, slope=0.01)
        self.feed = GatedFeedForward(dim, F.selu)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x [B, n, d], tokens [B, N, d] -> [B, n, d]."""
        x = x + self.attention(x, tokens)
        update: Tensor = self.feed(x)
        return x + update


class HEALNet(Fusion):
    """Hybrid early fusion: every layer lets each modality in turn update latents that all share.

    x <- U_lm(x, t_m) for layers l, modalities m that a cell has; p = softmax(W LN(mean x)). Parameters: sum_m
    [P + S(C_m) + (D + 1) d + N d] + n d + L M (16 d^2 + 16 d) + 2 d + (d + 1) K, with n latents of width d and L
    layers (the attention among latents, if there is one, as much again).
    """

    name = "healnet"
    source = "Hemker, Simidjievski, Jamnik, NeurIPS 2024, arXiv 2311.09115, and the authors' code (healnet)"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_parameters",),
        # xor is solved too, but in more steps than the contract has time for
        own_backbones=True,
    )

    class Params(Parameters):
        latents: int = param(16, "Latents n.", ge=1, le=1024, search=[8, 16, 32])
        layers: int = param(2, "Layers L, each with an update by every modality.", ge=1, le=12, search=[1, 2, 3])
        dim: int = param(64, "Width d of tokens and latents.", ge=4, le=2048, search=[32, 64, 128])
        heads: int = param(1, "Attention heads; must divide `dim`.", ge=1, le=64, search=[1, 4])
        among: bool = param(False, "Attention among the latents after every update.", search=[False, True])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        self.backbones = token_trunks(task, backbone, params.dim)
        self.latents = nn.Parameter(torch.randn(params.latents, params.dim))
        keys = {f"of_{m}": m for m in task.modalities}
        self.layers, self.own = (
            nn.ModuleList(PerModality({k: Update(params.dim, params.heads) for k in keys}, keys) for _ in range(n))
            for n in (params.layers, params.layers if params.among else 0)
        )
        self.norm = nn.LayerNorm(params.dim)
        self.head = nn.Linear(params.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        tokens = {
            m: self.backbones[m](masked(images[m], present, i)) for i, m in enumerate(names) if m in self.backbones
        }
        some = next(iter(tokens.values()))
        x = self.latents.to(some.dtype).expand(some.shape[0], -1, -1)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, PerModality)
            for i, m in enumerate(names):
                if m not in tokens:
                    continue
                updated = layer[f"of_{m}"](x, tokens[m])
                if self.params.among:
                    own = self.own[number]
                    assert isinstance(own, PerModality)
                    updated = own[f"of_{m}"](updated, updated)
                x = updated if present is None else torch.where(present[:, i, None, None], updated, x)
        return joint(self.task, self.norm(x.mean(1)), self.head)
