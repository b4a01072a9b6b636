"""Late fusion: one network per modality, each with its own head; their probabilities are averaged."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task


class LateProb(Fusion):
    """One network per modality; the mean of their probabilities.

    p = (1/M) sum_m softmax(W_m h_m(x_m)), over the modalities that a cell has. Trained on the sum of the
    heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "late_prob"
    source = "sum rule of Kittler, Hatef, Duin, Matas, TPAMI 20(3), 1998"
    aliases = ("late",)
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs
