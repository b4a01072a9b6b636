"""Fusion of embeddings by their mean: one backbone and one projection per modality, one head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint, mask_of

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def pool(projected: Tensor, mask: Tensor) -> Tensor:
    """[B, M, H] -> [B, H]: the mean over the n modalities that a cell has. `mask`: [B, M] bool."""
    return torch.where(mask[..., None], projected, 0.0).sum(1) / mask.sum(1, keepdim=True)


class Mean(Fusion):
    """One backbone per modality; the mean of their projected embeddings, one head.

    p = softmax(W h), h = (1/n) sum_m A_m h_m over the modalities that a cell has (Deep Sets pooling).
    Parameters: sum_m [P + S(C_m) + (D_m + 1) H] + (H + 1) K: M backbones.
    """

    name = "mean"
    source = "Zaheer et al. (Deep Sets), NeurIPS 2017, arXiv 1703.06114"
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
        self.head = nn.Linear(width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        fused = pool(self.projections(embeddings), mask_of(embeddings, present))
        return joint(self.task, fused, self.head)
