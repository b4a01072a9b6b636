"""MBT: modalities exchange information through a few bottleneck tokens.

Differences from the paper: the tokens are the places of the backbones' last maps (any backbone), read by a small
transformer of this fusion's own, instead of the layers of a pretrained ViT; the mean token is classified, not a
class token, and the mean of the modalities' scores is one linear head on their concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from wbcbench.errors import IncompatibleError


def shared_bottleneck(copies: Sequence[Tensor], seen: Tensor) -> Tensor:
    """z = sum_m s_m z_m / sum_m s_m, the mean of the copies that the modalities present have updated.

    Nagrani et al., NeurIPS 2021, arXiv 2107.00135 (all present). copies: M of [B, n, d]; seen s: [B, M].
    """
    share = seen / seen.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bm,mbnd->bnd", share, torch.stack(list(copies)))


class MBT(Fusion):
    """Attention bottlenecks: from one layer on, modalities see each other through a few shared tokens only.

    Parameters: sum_m [P + S(C_m) + (D + 1) d + N d] + M L (12 d^2 + 13 d) + n d + (M d + 1) K, with L layers (L
    instead of M L where `shared`) and n bottleneck tokens of width d.
    """

    name = "mbt"
    source = "Nagrani et al., NeurIPS 2021, arXiv 2107.00135"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_parameters",),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        bottlenecks: int = param(4, "Bottleneck tokens n.", ge=1, le=256, search=[1, 4, 16])
        layers: int = param(3, "Transformer layers per modality.", ge=2, le=12, search=[2, 3, 4])
        fusion_layer: int = param(
            1, "First layer, counted from 0, with bottlenecks; information needs two layers to cross.", ge=0, le=10
        )
        dim: int = param(64, "Width d of the tokens.", ge=4, le=2048, search=[32, 64, 128])
        heads: int = param(4, "Attention heads; must divide `dim`.", ge=1, le=64)
        shared: bool = param(
            False, "All modalities use the same transformer.", search=[False, True], when="modalities > 1"
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        if params.fusion_layer > params.layers - 2:
            raise IncompatibleError(
                f"With {params.layers} layers and bottlenecks from layer {params.fusion_layer} on, no information "
                f"passes between modalities. Choose fusion_layer up to {params.layers - 2}."
            )
        self.backbones = token_trunks(task, backbone, params.dim)
        owners = {"of_all": ""} if params.shared else {f"of_{m}": m for m in task.modalities}
        self.layers = nn.ModuleList(
            PerModality({k: Block(params.dim, params.heads) for k in owners}, owners) for _ in range(params.layers)
        )
        self.bottleneck = nn.Parameter(0.02 * torch.randn(params.bottlenecks, params.dim))
        self.head = nn.Linear(len(task.modalities) * params.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names, n = self.task.modalities, self.params.bottlenecks
        tokens = {
            m: self.backbones[m](masked(images[m], present, i)) for i, m in enumerate(names) if m in self.backbones
        }
        z = self.bottleneck.expand(images[names[0]].shape[0], -1, -1)
        every = availability(present, z, len(names))
        seen = torch.stack([every[:, i] for i, m in enumerate(names) if m in tokens], 1)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, PerModality)
            copies = []
            for m in tokens:
                block = layer["of_all" if self.params.shared else f"of_{m}"]
                if number < self.params.fusion_layer:
                    tokens[m] = block(tokens[m])
                    continue
                both = block(torch.cat([z.to(tokens[m].dtype), tokens[m]], 1))
                copies.append(both[:, :n])
                tokens[m] = both[:, n:]
            z = shared_bottleneck(copies, seen) if copies else z
        embedding = concatenated(with_blanks({m: x.mean(1) for m, x in tokens.items()}, names), present)
        return {"joint": Output(self.head(embedding), embedding, reads=frozenset(names), head=self.head)}
