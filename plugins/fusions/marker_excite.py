"""Marker excite: one early-fused trunk whose channels are gated by which modalities are there.

Meant to be trained with modalities left out at random (policy): with complete training data the gates see one
availability vector only, and learn nothing about the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import affine, availability, keep_stages, masked, pool

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Task,
    param,
    stage_shapes,
)


def marker_gates(seen: Tensor, inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor]) -> Tensor:
    """Gates sigmoid(W_2 ReLU(W_1 a + b_1) + b_2) of the availability vector a.

    After "marker excite" of arXiv 2008.12380. a: [B, M]; W_1: [H, M]; W_2: [C, H]; returns [B, C].
    """
    return torch.sigmoid(F.linear(F.relu(F.linear(seen, *inner)), *outer))


class MarkerExcite(Fusion):
    """Early fusion with channel gates that read the availability vector after every stage.

    Parameters: P + S(sum_m C_m) + sum_s [(M + 1) H + (H + 1) C_s] + (D + 1) K, with H hidden units: about one
    backbone.
    """

    name = "marker_excite"
    source = "arXiv 2008.12380, marker excite; two-layer gates as in Hu et al., arXiv 1709.01507"
    traits = FusionTraits(missing="native", offers=(), solves=("redundant", "unique", "xor"))

    class Params(Parameters):
        hidden: int = param(16, "Hidden units of the gates.", ge=1, le=1024, search=[8, 16, 32])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        channels = sum(task.channels.values())
        self.backbone = backbone(channels)
        shapes = stage_shapes(self.backbone, channels, task.image_size)
        keep_stages(self.backbone, range(len(shapes)), (channels, task.image_size, task.image_size))
        self.inner = nn.ModuleList(nn.Linear(len(task.modalities), params.hidden) for _ in shapes)
        self.outer = nn.ModuleList(nn.Linear(params.hidden, c) for c, _, _ in shapes)
        self.head = nn.Linear(shapes[-1][0], task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        x = torch.cat([masked(images[m], present, i) for i, m in enumerate(names)], 1)
        seen = availability(present, x, len(names))
        kept = []
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            gates = marker_gates(seen, affine(inner), affine(outer))
            x = self.backbone.stage(number, x) * gates[:, :, None, None]
            kept.append(x)
        embedding = pool(x)
        return {
            "joint": Output(
                logits=self.head(embedding),
                embedding=embedding,
                maps=tuple(kept) if maps else (),
                reads=frozenset(names),
                head=self.head,
            )
        }
