"""Shared trunk: all modalities go through the same weights, with private stems and private normalisation."""

from __future__ import annotations

from torch import Tensor, nn
from wbcbench_plugins.fusions._private import parts_of, private_backbone, stack

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    Parameters,
    PerModality,
    Task,
)


class SharedTrunk(OwnHeads, Fusion):
    """One trunk read by every modality in turn; stems, norms and heads are private.

    p = (1/M) sum_m softmax(W_m trunk(x_m; stem_m, norms_m)), over the modalities that a cell has. Trained on
    the sum of the heads' losses. Parameters: P + sum_m S(C_m) + (M - 1) Q + M (D + 1) K, with Q parameters of
    the norms (two per normalised channel): about one backbone, at the cost of M forward passes.
    """

    name = "shared_trunk"
    source = "Module-parallel layers of Wang et al., NeurIPS 2020, arXiv 2011.05005, without the exchange"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters", "meeting_losses")
    )

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.backbone = private_backbone(task, backbone)
        self.heads = PerModality({m: nn.Linear(self.backbone.dim, task.n_classes) for m in task.modalities})

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        count = len(self.heads)
        features = self.backbone(stack({m: images[m] for m in self.heads}, self.task), maps)
        embeddings = parts_of(features.embedding, count)
        stages = [parts_of(x, count) for x in features.maps]
        return {
            m: Output(
                logits=head(embeddings[i]),
                embedding=embeddings[i],
                maps=tuple(s[i] for s in stages),
                reads=frozenset({m}),
                head=head,
            )
            for i, (m, head) in enumerate(self.heads.items())
        }

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {m: list(self.heads[m].parameters()) for m in self.task.modalities}
