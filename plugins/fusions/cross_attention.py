"""Cross-attention: every modality's tokens attend to those of every other, as in MulT.

Differences from MulT: tokens are the places of the backbones' last maps, positions are learned, one layer per
ordered pair by default, and the streams that reach one modality are averaged over the modalities present
instead of concatenated and read by another transformer (so that absent ones leave no gap); their mean token,
not the last, is classified.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import availability, concatenated, masked, with_blanks
from wbcbench_plugins.fusions._tokens import Block, check_heads, token_trunks

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Task,
    param,
)


class CrossAttention(Fusion):
    """Crossmodal attention between the tokens of every ordered pair of modalities (like MulT).

    Parameters: sum_m [P + S(C_m) + (D + 1) d + N d] + M (M - 1) L (12 d^2 + 13 d) + (M d + 1) K, with N tokens
    of width d and L layers: quadratic in M.
    """

    name = "cross_attention"
    aliases = ("mult",)
    source = "Tsai et al., ACL 2019, arXiv 1906.00295"
    traits = FusionTraits(
        stage_maps=False,
        arity=(2, None),
        missing="native",
        offers=("own_parameters",),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        dim: int = param(64, "Width d of the tokens.", ge=4, le=2048, search=[32, 64, 128])
        heads: int = param(4, "Attention heads; must divide `dim`.", ge=1, le=64)
        layers: int = param(1, "Layers per ordered pair.", ge=1, le=12, search=[1, 2])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        self.backbones = token_trunks(task, backbone, params.dim)
        targets = {f"{a}<{b}": a for a in task.modalities for b in task.modalities if a != b}
        self.pairs = PerModality(
            {p: nn.ModuleList(Block(params.dim, params.heads) for _ in range(params.layers)) for p in targets},
            owners=targets,
        )
        self.head = nn.Linear(len(task.modalities) * params.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        blank = images[names[0]].new_zeros(images[names[0]].shape[0], 1, self.params.dim)
        tokens = {
            m: self.backbones[m](masked(images[m], present, i)) if m in self.backbones else blank
            for i, m in enumerate(names)
        }
        pooled: dict[str, Tensor] = {}
        for a in self.backbones:
            streams = []
            for j, b in enumerate(names):
                if a == b:
                    continue
                allowed = None if present is None else present[:, j, None].expand(-1, tokens[b].shape[1])
                x = tokens[a]
                blocks = self.pairs[f"{a}<{b}"]
                assert isinstance(blocks, nn.ModuleList)
                for block in blocks:
                    x = block(x, tokens[b], allowed)
                streams.append(x.mean(1))
            pooled[a] = self._over_sources(streams, a, present)
        embedding = concatenated(with_blanks(pooled, names), present)
        return {"joint": Output(self.head(embedding), embedding, reads=frozenset(names), head=self.head)}

    def _over_sources(self, streams: list[Tensor], target: str, present: Tensor | None) -> Tensor:
        # The mean over the other modalities that are there; alone, a modality keeps the mean of all streams,
        # which then hold nothing but its own tokens.
        stacked = torch.stack(streams, 1)  # [B, M - 1, d]
        own = self.task.modalities.index(target)
        seen = availability(present, stacked, len(self.task.modalities))
        others = torch.cat([seen[:, :own], seen[:, own + 1 :]], 1)
        others = torch.where(others.sum(1, keepdim=True) > 0, others, torch.ones_like(others))
        return (stacked * others[:, :, None]).sum(1) / others.sum(1, keepdim=True)
