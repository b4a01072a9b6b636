"""Early fusion: the modality images are stacked channel-wise and one network reads the stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Output, Outputs, Parameters, Task


class Early(Fusion):
    """Channel-wise concatenation into one network with one head.

    p = softmax(W h(concat_m x_m)). Parameters: P + S(sum_m C_m) + (D + 1) K: one backbone.
    """

    name = "early"
    source = "survey: Baltrusaitis, Ahuja, Morency, TPAMI 2019, arXiv 1705.09406"
    traits = FusionTraits(offers=(), solves=("redundant", "unique", "xor"))

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.backbone = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.backbone.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        features = self.backbone(torch.cat([images[m] for m in self.task.modalities], 1), maps)
        return {
            "joint": Output(
                logits=self.head(features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset(self.task.modalities),
                head=self.head,
            )
        }
