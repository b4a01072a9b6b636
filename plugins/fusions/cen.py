"""CEN: a shared trunk whose modalities swap the channels that their norms have scaled to almost nothing.

Differences from the paper: the exchange follows every batch (or group) norm of any backbone, not one per
residual block. For M > 2 a channel is replaced by the mean of the other modalities. With `threshold` 0 and
`sparsity` 0 this is `shared_trunk` (in networks that have no other norms) with a trained average of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._private import Private, parts_of, private_backbone, stack

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    Parameters,
    Progress,
    Task,
    param,
)
from wbcbench.errors import IncompatibleError


def exchange(maps: Sequence[Tensor], gammas: Sequence[Tensor], threshold: float) -> list[Tensor]:
    """x'_m,c = x_m,c where |gamma_m,c| >= theta, else the mean over n != m of x_n,c.

    Wang et al., NeurIPS 2020, arXiv 2011.05005 (M = 2). maps: M of [B, C, H, W]; gammas: M of [C].
    """
    if len(maps) < 2:
        return list(maps)
    total = torch.stack(list(maps)).sum(0)
    swapped = []
    for x, gamma in zip(maps, gammas, strict=True):
        kept = (gamma.abs() >= threshold).view(-1, 1, 1)
        swapped.append(torch.where(kept, x, (total - x) / (len(maps) - 1)))
    return swapped


def own_part(gammas: Sequence[Tensor]) -> Tensor:
    """sum_m ||gamma_m restricted to the m-th of M equal parts of the channels||_1, a scalar."""
    return torch.stack([g.tensor_split(len(gammas))[m].abs().sum() for m, g in enumerate(gammas)]).sum()


class Exchanging(Private):
    """Private norms followed by the exchange. The threshold is set by the fusion."""

    threshold: float = 0.0

    def gammas(self) -> list[Tensor]:
        """M of [C], the norms' scales."""
        return [m.weight for m in self.each.values()]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(exchange(self.split(x), self.gammas(), self.threshold))


class CEN(OwnHeads, Fusion):
    """Channel exchange in a shared trunk with private norms; heads averaged with trained weights.

    p = softmax(sum_m softmax(a)_m z_m), z detached where a is trained. Adds `sparsity` times the L1 norm of each
    modality's own M-th of every norm's scales to the losses of the M + 1 routes. Parameters: P + sum_m S(C_m) +
    (M - 1) Q + M (D + 1) K + M, with Q parameters of the exchanging norms.
    """

    name = "cen"
    source = "Wang et al., NeurIPS 2020, arXiv 2011.05005"
    traits = FusionTraits(
        emits=("joint", "modality"),
        stage_maps=False,
        offers=("own_embedding", "own_parameters", "meeting_losses"),
        solves=("redundant", "unique", "xor"),
    )

    class Params(Parameters):
        threshold: float = param(
            0.02,
            "Channels scaled by less than this are replaced; 0: none.",
            ge=0,
            le=1,
            search=(0.005, 0.1),
            log=True,
            when="modalities > 1",
        )
        sparsity: float = param(
            2e-4, "Weight of the L1 norm of the scales (their sum).", ge=0, le=1, search=(1e-5, 1e-2), log=True
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
        self.backbone = private_backbone(task, backbone, kinds, Exchanging)
        sites = self.sites()
        if not sites or not all(isinstance(g, nn.Parameter) for s in sites for g in s.gammas()):
            raise IncompatibleError(
                f"Fusion 'cen' needs batch or group norms with scales, but backbone '{self.backbone.name}' has "
                "none. Choose cellnet or a timm model with batch norm such as resnet18."
            )
        for site in sites:
            site.threshold = params.threshold
        self.heads = nn.ModuleDict({m: nn.Linear(self.backbone.dim, task.n_classes) for m in task.modalities})
        self.alpha = nn.Parameter(torch.zeros(len(task.modalities)))

    def sites(self) -> list[Exchanging]:
        """Where channels are exchanged."""
        return [m for m in self.backbone.modules() if isinstance(m, Exchanging)]

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        features = self.backbone(stack(images, self.task), maps)
        embeddings = parts_of(features.embedding, len(names))
        stages = [parts_of(x, len(names)) for x in features.maps]
        logits = [self.heads[m](h) for m, h in zip(names, embeddings, strict=True)]
        joint = torch.einsum("m,mbk->bk", self.alpha.softmax(0), torch.stack(logits).detach())
        reads = frozenset(names)  # channels of others flow through every head
        outputs = {"joint": Output(joint, torch.cat(embeddings, 1), reads=reads)}
        for i, m in enumerate(names):
            outputs[m] = Output(logits[i], embeddings[i], tuple(s[i] for s in stages), reads, head=self.heads[m])
        return outputs

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        penalty = torch.stack([own_part(site.gammas()) for site in self.sites()]).sum()
        return {**super().task_terms(outputs, batch, progress), "sparsity": self.params.sparsity * penalty}

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return outputs["joint"].logits.float().softmax(1)

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {"joint": [self.alpha], **{m: list(self.heads[m].parameters()) for m in self.task.modalities}}
