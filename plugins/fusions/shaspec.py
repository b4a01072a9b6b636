"""ShaSpec: one encoder for what modalities share and one for what is specific to each (Wang et al. 2023).

Differences from the paper: the features are pooled, for classification; the shared encoder has a first convolution
per modality, since channels differ. Missing features are the mean of the shared ones that there are, as the paper
says; the authors' code takes those of the first modality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import mask_of
from wbcbench_plugins.fusions._private import parts_of, private_backbone, stack
from wbcbench_plugins.fusions._stages import masked, with_blanks

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Progress,
    Task,
    param,
)


def alignment(shared: Tensor, mask: Tensor) -> Tensor:
    """Sum over neighbours of the modalities in a ring, where both are there, of mean_d |s_m - s_n|.

    Args:
        shared: [B, M, D].
        mask: [B, M] bool.

    Returns:
        [B], >= 0; 0 where all agree. Source: arXiv 2307.14126, and the authors' code for M = 4.
    """
    count = shared.shape[1]
    pairs = [(m, (m + 1) % count) for m in range(count if count > 2 else count - 1)]
    found = [
        (shared[:, m] - shared[:, n]).abs().mean(1) * (mask[:, m] & mask[:, n]).to(shared.dtype) for m, n in pairs
    ]
    return torch.stack(found).sum(0) if found else shared.new_zeros(len(shared))


@dataclass
class SharedSpecific(Output):
    """An output with the two kinds of features that it is made from."""

    shared: Tensor | None = None
    """[B, M, D]."""
    specific: Tensor | None = None
    """[B, M, D]."""


class ShaSpec(Fusion):
    """Shared and specific features, composed per modality; a missing one is the mean of the shared features.

    p = softmax(W [f_1; ..; f_M]), f_m = s_m + V [s_m; p_m] if modality m is there, else the mean of the s_n that
    are. Adds `align` times `alignment` of the s_m, and `tell` times the cross-entropy of a linear classifier of
    modalities on p_m. Parameters: 2 P + (M - 1) P + 2 sum_m S(C_m) + (2 D + 1) D + (D + 1) M + (M D + 1) K: M + 1
    networks.
    """

    name = "shaspec"
    source = "Wang, Chen, Ma et al., CVPR 2023, arXiv 2307.14126, and the authors' code (ShaSpec)"
    traits = FusionTraits(stage_maps=False, missing="native", offers=("own_embedding", "own_parameters"))

    class Params(Parameters):
        align: float = param(
            0.1, "Weight of the shared features' distance.", ge=0, search=(0.01, 1.0), log=True,
            when="modalities > 1",
        )  # fmt: skip
        tell: float = param(
            0.02, "Weight of telling modalities apart by specific features.", ge=0, search=(0.002, 0.2), log=True,
            when="modalities > 1",
        )  # fmt: skip

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.shared = private_backbone(task, backbone, kinds=())
        self.backbones = PerModality({m: backbone(c) for m, c in task.channels.items()})
        dim, count = self.shared.dim, len(task.modalities)
        self.compose = nn.Linear(2 * dim, dim)
        self.which = nn.Linear(dim, count)
        self.head = nn.Linear(count * dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        there = {m: masked(images[m], present, i) for i, m in enumerate(names) if m in self.backbones}
        shared = dict(
            zip(there, parts_of(self.shared(stack(there, self.task)).embedding, len(there)), strict=True)
        )
        specific = {m: net(there[m]).embedding for m, net in self.backbones.items()}
        s, p = (torch.stack(with_blanks(features, names), 1) for features in (shared, specific))  # [B, M, D]
        mask = mask_of([s[:, i] for i in range(len(names))], present)[..., None]
        mean = torch.where(mask, s, 0.0).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        fused = torch.where(mask, s + self.compose(torch.cat([s, p], 2)), mean).flatten(1)
        out = SharedSpecific(
            self.head(fused), fused, reads=frozenset(names), head=self.head, shared=s, specific=p
        )  # fmt: skip
        return {"joint": out}

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms, out = super().task_terms(outputs, batch, progress), outputs["joint"]
        if not isinstance(out, SharedSpecific) or out.shared is None or out.specific is None:
            return terms
        shared, specific = out.shared.float(), out.specific.float()
        rows, count = shared.shape[:2]
        if count == 1:
            return terms
        mask = mask_of([shared[:, i] for i in range(count)], batch.present)
        kinds = torch.arange(count, device=shared.device).expand(rows, -1)
        told = F.cross_entropy(self.which(specific).transpose(1, 2), kinds, reduction="none")  # [B, M]
        told = torch.where(mask, told, 0.0).sum(1) / mask.sum(1)
        return {**terms, "align": self.params.align * alignment(shared, mask), "tell": self.params.tell * told}
