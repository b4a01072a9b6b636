"""MMCosine: embeddings and class weights are compared by their angle, so that no modality wins by its length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


class CosineHead(nn.Module):
    """[h_1; ..; h_M] of length-one embeddings -> s sum_m cos(h_m, w_mk). Parameters: sum_m D_m K, no bias."""

    def __init__(self, dims: list[int], classes: int, scale: float) -> None:
        super().__init__()
        self.dims, self.scale = dims, scale
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(classes, sum(dims)), a=5**0.5))

    def parts(self, embedding: Tensor) -> list[Tensor]:
        """M of [B, K]: s cos(h_m, w_mk), each in [-s, s]."""
        weights = torch.split(self.weight, self.dims, 1)
        pieces = torch.split(embedding, self.dims, 1)
        return [self.scale * (h @ F.normalize(w, dim=1).T) for h, w in zip(pieces, weights, strict=True)]

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.stack(self.parts(embedding)).sum(0)


class MMCosine(AddsLogits, Fusion):
    """One backbone per modality; z_k = s sum_m cos(h_m, w_mk), a joint head without lengths and bias.

    Balances modalities: in a linear joint head, the one whose weights and embeddings grow fastest decides. An
    absent modality adds nothing. It predicts as it trains, which is why this is a fusion and not a policy.
    Parameters: sum_m [P + S(C_m) + D_m K]: M backbones.
    """

    name = "mmcosine"
    source = "Xu et al., ICASSP 2023, arXiv 2303.05338, and the authors' code (MMCosine_ICASSP23)"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("logits", "own_embedding", "own_parameters"),
        own_backbones=True,
    )

    class Params(Parameters):
        scale: float = param(10.0, "s: sharper for larger ones.", gt=0, le=100, search=(4.0, 32.0), log=True)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        self.head = CosineHead(self.encoders.dims, task.n_classes, params.scale)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        directions = [F.normalize(h, dim=1) for h in self.encoders(images, present)]
        return joint(self.task, torch.cat(directions, 1), self.head)

    def modality_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        embedding = outputs["joint"].embedding
        assert embedding is not None
        return dict(zip(self.task.modalities, self.head.parts(embedding), strict=True))
