"""Thin ensemble: M narrow networks that together cost about one full network; their probabilities are averaged.

The control at equal cost for one network with M heads (`independent`): a convolution of width w costs about w^2,
so M networks of width 1 / sqrt(M) cost about as many multiplications and parameters as one: as near as whole
channels allow (cellnet of width 16 with two modalities: 11 of 11.3 channels, 6 % less).
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


class ThinEnsemble(OwnHeads, Fusion):
    """Late fusion of narrow networks, together as big as one network.

    p = (1/M) sum_m softmax(W_m h_m(x_m)), over the modalities that a cell has. Trained on the sum of the heads'
    losses. Parameters: sum_m [P(w) + S(C_m, w) + (w D + 1) K] with w = 1 / sqrt(M): about P.
    """

    name = "thin_ensemble"
    source = "control: narrow networks at equal MACs that share nothing"
    traits = FusionTraits(
        emits=("modality",),
        missing="native",
        scales="width",
        offers=("own_embedding", "own_parameters"),
        own_backbones=True,
    )

    class Params(Parameters):
        width: float = param(0.0, "Factor on the channels of every network; 0: 1 / sqrt(M).", ge=0, le=8)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        width = params.width or len(task.modalities) ** -0.5
        trunks = {m: backbone(c, width=width, modality=m) for m, c in task.channels.items()}
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
