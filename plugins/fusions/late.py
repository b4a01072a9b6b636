"""Late fusion: one network per modality, each with its own head; their probabilities are averaged."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, Output, Outputs, Parameters, Task


class Late(Fusion):
    """One network per modality; the mean of their probabilities.

    p = (1/M) sum_m softmax(W_m h_m(x_m)), over the modalities that a cell has. Trained on the sum of the
    heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "late"
    emits = ("modality",)
    missing = "native"

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        trunks = {m: backbone(c) for m, c in task.channels.items()}
        self.backbones = nn.ModuleDict(trunks)
        self.heads = nn.ModuleDict({m: nn.Linear(trunks[m].dim, task.n_classes) for m in task.modalities})

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = {}
        for m in self.task.modalities:
            features = self.backbones[m](images[m], maps)
            outputs[m] = Output(
                logits=self.heads[m](features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({m}),
                head=self.heads[m],
            )
        return outputs
