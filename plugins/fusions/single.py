"""One modality, one network: the floor that every fusion has to beat, and what a teacher is."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Output, Outputs, Parameters, Task, param


class Single(Fusion):
    """One modality, one network; run once per modality. Also what teachers are.

    Parameters: P + S(C) + (D + 1) K for a trunk of P, a stem of S(C), D features and K classes; with a
    hidden layer of H > 0 units P + S(C) + (D + 1) H + (H + 1) K.
    """

    name = "single"
    source = "baseline: one modality alone; every teacher is one"
    traits = FusionTraits(emits=("modality",), arity=(1, 1), offers=(), solves=("redundant",), vectors=True)

    class Params(Parameters):
        hidden: int = param(
            0, "Units of a hidden layer before the classifier, for a frozen backbone; 0: none.", ge=0, later=True
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        (self.modality,) = task.modalities
        self.backbone = backbone(task.channels[self.modality])
        self.hidden = nn.Sequential()
        if params.hidden:
            self.hidden = nn.Sequential(nn.Linear(self.backbone.dim, params.hidden), nn.ReLU())
        self.head = nn.Linear(params.hidden or self.backbone.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        features = self.backbone(images[self.modality], maps)
        embedding = self.hidden(features.embedding)
        return {
            self.modality: Output(
                logits=self.head(embedding),
                embedding=embedding,
                maps=features.maps,
                reads=frozenset({self.modality}),
                head=self.head,
            )
        }
