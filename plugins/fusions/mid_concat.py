"""Middle fusion: private stages, a 1x1 convolution of the concatenated maps, one trunk from there on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import build_trunks, keep_stages, pool

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Task,
    param,
)


class MidConcat(Fusion):
    """Stage-wise concatenation: modalities run alone up to one stage and together from there on.

    p = softmax(W GAP(trunk_{>k}(V [f_1; ..; f_M]))). Parameters: sum_m P_m(stages <= k) + (M C_k + 1) C_k +
    P(stages > k) + (D + 1) K, with C_k channels at the junction and D at the last stage.
    """

    name = "mid_concat"
    aliases = ("middle",)
    source = "Middle fusion; the 1x1 convolution as in Lin et al., arXiv 1312.4400"
    traits = FusionTraits(offers=("own_parameters",), solves=("redundant", "unique", "xor"))

    class Params(Parameters):
        stage: int = param(
            1, "Stage, counted from 1, after which the maps are joined; the last one: all stages private.",
            ge=1, le=16, search=[1, 2, 3],
        )  # fmt: skip

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        k = params.stage
        self.backbones, shapes = build_trunks(task, backbone, k)
        channels = shapes[k - 1][0]
        self.junction = nn.Conv2d(len(task.modalities) * channels, channels, 1)
        self.later = range(k, len(shapes))
        self.trunk = keep_stages(backbone(min(task.channels.values())), self.later, shapes[k - 1])
        self.head = nn.Linear(shapes[-1][0], task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        for number in range(self.params.stage):
            images = self.backbones.step(number, images)
        x = self.junction(torch.cat([images[m] for m in self.task.modalities], 1))
        kept = [x]
        for number in self.later:
            x = self.trunk.stage(number, x)
            kept.append(x)
        embedding = pool(x)
        return {
            "joint": Output(
                logits=self.head(embedding),
                embedding=embedding,
                maps=tuple(kept) if maps else (),
                reads=frozenset(self.task.modalities),
                head=self.head,
            )
        }
