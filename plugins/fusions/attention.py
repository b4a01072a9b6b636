"""Fusion of embeddings by attention: a softmax over modalities weighs their projected embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint, mask_of

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over dimension 1 of [B, M, ...] among the modalities that are there; 0 for the others.

    `mask`: [B, M] bool, some modality in every row.
    """
    shaped = mask.reshape(*mask.shape, *[1] * (scores.ndim - 2))
    return torch.where(shaped, scores, -torch.inf).softmax(1)


class Attention(Fusion):
    """One backbone per modality; a weighted sum of their projected embeddings, weights from a softmax.

    p = softmax(W h), h = sum_m a_m A_m h_m, a = softmax_m(V [h_1; ..; h_M]) over the modalities that a cell
    has; absent embeddings are zero in the concatenation. Parameters:
    sum_m [P + S(C_m) + (D_m + 1) H] + (sum_m D_m + 1) M + (H + 1) K: M backbones.
    """

    name = "attention"
    source = "attention fusion of TorchMultimodal (torchmultimodal.modules.fusions.attention_fusion)"
    traits = FusionTraits(
        stage_maps=False, missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        width: int = param(0, "Common width H; 0: the backbone's embedding width.", ge=0, search=[64, 128, 256])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        width = params.width or max(self.encoders.dims)
        self.projections = Projections(self.encoders.dims, width)
        self.scores = nn.Linear(sum(self.encoders.dims), len(task.modalities))
        self.head = nn.Linear(width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        weights = masked_softmax(self.scores(torch.cat(embeddings, 1)), mask_of(embeddings, present))
        fused = (weights[..., None] * self.projections(embeddings)).sum(1)
        return joint(self.task, fused, self.head)
