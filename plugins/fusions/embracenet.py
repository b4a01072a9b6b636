"""EmbraceNet (Choi & Lee): each unit of the joint embedding is taken from one modality, drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, joint, mask_of

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def embrace(docked: Tensor, mask: Tensor, uniform: Tensor | None = None) -> Tensor:
    """Each of H units from one modality among the n that are there, each with chance 1/n.

    Args:
        docked: [B, M, H].
        mask: [B, M] bool, some modality in every row.
        uniform: [B, H] in [0, 1), which select; None: the expectation, the mean of those that are there.

    Returns:
        [B, H].

    Source: Choi & Lee, Information Fusion 2019, arXiv 1904.09078, section 3.2.
    """
    docked, count = torch.where(mask[..., None], docked, 0.0), mask.sum(1, keepdim=True)
    if uniform is None:
        return docked.sum(1) / count
    rank = mask.cumsum(1) - 1  # [B, M]: 0, 1, .. among those that are there
    turn = torch.minimum((uniform * count).floor().long(), count - 1)  # [B, H]: which modality is drawn
    chosen = mask[..., None] & (rank[..., None] == turn[:, None])
    return torch.where(chosen, docked, 0.0).sum(1)


class EmbraceNet(Fusion):
    """EmbraceNet: in training each unit is taken from a modality drawn at random, at test their mean.

    h_c = d_{m(c), c}, d_m = relu(A_m h_m), m(c) uniform over the modalities that a cell has; p = softmax(W h).
    The authors' code draws at test too; here the expectation is used. Dropping whole modalities in training,
    which the paper adds, is a policy. Parameters: sum_m [P + S(C_m) + (D_m + 1) H] + (H + 1) K: M backbones.
    """

    name = "embracenet"
    source = "Choi & Lee, Information Fusion 2019, arXiv 1904.09078, section 3"
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
        self.docking = Projections(self.encoders.dims, width)
        self.head = nn.Linear(width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        docked = self.docking(embeddings).relu()
        draw = torch.rand_like(docked[:, 0], dtype=torch.float32) if self.training else None
        return joint(self.task, embrace(docked, mask_of(embeddings, present), draw), self.head)
