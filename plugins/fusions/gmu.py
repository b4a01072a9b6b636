"""Gated multimodal unit (Arevalo et al.): per unit, a gate sets how much each modality contributes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint, mask_of
from wbcbench_plugins.fusions.attention import masked_softmax

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def gates(scores: Tensor, mask: Tensor, kind: str) -> Tensor:
    """How much of each modality each unit takes, [B, M, H] -> [B, M, H]; absent modalities get 0.

    softmax: the gates of a unit sum to one; for two modalities sigma(a_1 - a_2) and its complement, which is
    the paper's bimodal unit with a = a_1 - a_2. sigmoid: independent gates, the paper's unit for more.
    """
    if kind == "softmax":
        return masked_softmax(scores, mask)
    return torch.where(mask[..., None], scores.sigmoid(), 0.0)


class GMU(Fusion):
    """Gated multimodal unit: learned gates, per unit and cell, mix the modalities' embeddings.

    h = sum_m z_m * tanh(A_m h_m), z = gates of [h_1; ..; h_M] that sum to one over the modalities that a cell
    has (`gate`); absent embeddings are zero. Quadratic in M, for every gate reads all. Parameters:
    sum_m [P + S(C_m) + (D_m + 1) H] + M (sum_m D_m + 1) H + (H + 1) K: M backbones.
    """

    name = "gmu"
    source = "Arevalo et al., arXiv 1702.01992, section 3"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        width: int = param(0, "Common width H; 0: the backbone's embedding width.", ge=0, search=[64, 128, 256])
        gate: Literal["softmax", "sigmoid"] = param(
            "softmax",
            "softmax: gates sum to one; sigmoid: independent gates (the paper, for more than two modalities).",
            search=["softmax", "sigmoid"],
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        width = params.width or max(self.encoders.dims)
        joined = sum(self.encoders.dims)
        self.projections = Projections(self.encoders.dims, width)
        self.gates = Projections([joined] * len(task.modalities), width)
        self.head = nn.Linear(width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        joined = torch.cat(embeddings, 1)
        scores = self.gates([joined] * len(embeddings))
        z = gates(scores, mask_of(embeddings, present), self.params.gate)
        return joint(self.task, (z * self.projections(embeddings).tanh()).sum(1), self.head)
