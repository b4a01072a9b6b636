"""Packed networks: one network of grouped convolutions, that is, M disjoint thin networks side by side.

A grouped convolution of M groups is M convolutions side by side, so the function, the gradients and the
parameters of the packed network are those of M networks of width alpha / M (alpha 1 by default). It is built
as M networks, because a backbone behind the contract cannot be given groups; only the speed differs. So at one
width it is `thin_ensemble`, weight for weight; what differs is the default width: here as many channels as one
network (1 / M of its cost), there the cost of one network.
"""

from __future__ import annotations

from torch import Tensor, nn

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
    param,
)


class Packed(OwnHeads, Fusion):
    """One network with one group of channels per modality: as many channels as one network, no cross weights.

    p = (1/M) sum_m softmax(W_m h_m(x_m)), over the modalities that a cell has. Trained on the sum of the heads'
    losses. Parameters: sum_m [P(w) + S(C_m, w) + (w D + 1) K] with w = 1 / M: about P / M.
    """

    name = "packed"
    source = "Laurent et al., ICLR 2023, arXiv 2210.09184, a subnetwork per modality"
    traits = FusionTraits(
        emits=("modality",), missing="native", scales="width", offers=("own_embedding", "own_parameters")
    )

    class Params(Parameters):
        width: float = param(
            0.0, "Factor on the channels of every group, alpha / M in the paper; 0: 1 / M.", ge=0, le=8
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        width = params.width or 1 / len(task.modalities)
        trunks = {m: backbone(c, width=width) for m, c in task.channels.items()}
        self.backbones = PerModality(trunks)
        self.heads = PerModality({m: nn.Linear(trunks[m].dim, task.n_classes) for m in task.modalities})

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = {}
        for m, backbone in self.backbones.items():
            features = backbone(images[m], maps)
            outputs[m] = Output(
                logits=self.heads[m](features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({m}),
                head=self.heads[m],
            )
        return outputs

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {m: [*self.backbones[m].parameters(), *self.heads[m].parameters()] for m in self.task.modalities}
