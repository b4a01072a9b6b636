"""Fusion of embeddings by concatenation: one backbone per modality, one head over all embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, joint

from wbcbench.contracts import (
    AddsLogits,
    BackboneFactory,
    Fusion,
    FusionTraits,
    Outputs,
    Parameters,
    Task,
    param,
)


class Concat(AddsLogits, Fusion):
    """One backbone per modality; their embeddings are concatenated into one linear or two-layer head.

    p = softmax(W [h_1; ..; h_M]), or W relu(V [h_1; ..; h_M]) with H hidden units. Parameters:
    sum_m [P + S(C_m)] + (sum_m D_m + 1) K, or + (sum_m D_m + 1) H + (H + 1) K: M backbones.
    """

    name = "concat"
    source = "survey: Baltrusaitis, Ahuja, Morency, TPAMI 2019, arXiv 1705.09406"
    aliases = ("feature_concat",)
    traits = FusionTraits(
        stage_maps=False, offers=("logits", "own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        hidden: int = param(0, "Hidden units H before the classifier; 0: none.", ge=0, search=[0, 128, 256])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        joined = sum(self.encoders.dims)
        layers = (nn.Linear(joined, params.hidden), nn.ReLU()) if params.hidden else ()
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(params.hidden or joined, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        return joint(self.task, self.hidden(torch.cat(self.encoders(images), 1)), self.head)

    def modality_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        """W_m h_m + b / M, the slices of the linear head (arXiv 2203.15332, eq. 3); none through hidden units."""
        embedding, widths = outputs["joint"].embedding, self.encoders.dims
        if self.params.hidden or embedding is None:
            return {}
        parts = zip(torch.split(embedding, widths, 1), torch.split(self.head.weight, widths, 1), strict=True)
        bias = self.head.bias / len(widths)
        return {m: h @ w.T + bias for m, (h, w) in zip(self.task.modalities, parts, strict=True)}
