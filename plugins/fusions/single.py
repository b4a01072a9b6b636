"""One modality, one network: the floor that every fusion has to beat, and what a teacher is."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Output, Outputs, Parameters, Task


class Single(Fusion):
    """One modality, one network; run once per modality. Also what teachers are.

    Parameters: P + S(C) + (D + 1) K for a trunk of P, a stem of S(C), D features and K classes.
    """

    name = "single"
    source = "baseline: one modality alone; every teacher is one"
    traits = FusionTraits(emits=("modality",), arity=(1, 1), offers=(), solves=("redundant",), vectors=True)

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        (self.modality,) = task.modalities
        self.backbone = backbone(task.channels[self.modality])
        self.head = nn.Linear(self.backbone.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        features = self.backbone(images[self.modality], maps)
        return {
            self.modality: Output(
                logits=self.head(features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({self.modality}),
                head=self.head,
            )
        }
