"""Majority vote of one network per modality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks, seen, stacked_logits

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task


def majority(probs: Tensor, mask: Tensor) -> Tensor:
    """(v_k + mean_m p_mk) / (n + 1): v_k of the n modalities that are there vote for class k.

    The largest is the class of most votes, and among equals the one of the highest mean probability,
    because a mean probability is worth less than a vote. `probs`: [B, M, K]; `mask`: [B, M] bool. -> [B, K].
    """
    votes = F.one_hot(probs.argmax(2), probs.shape[2]).to(probs.dtype)
    count = mask.sum(1, keepdim=True)
    ballots = torch.where(mask[..., None], votes + probs / count[..., None], 0.0)
    return ballots.sum(1) / (count + 1)


class Vote(Fusion):
    """One network per modality; majority vote, ties decided by the mean probability.

    p_k = (v_k + mean_m p_mk) / (n + 1), v_k votes of the n modalities that a cell has. With two modalities
    every disagreement is a tie. Trained on the sum of the heads' losses. Parameters:
    sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "vote"
    source = "majority vote of Kittler, Hatef, Duin, Matas, TPAMI 20(3), 1998"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return majority(stacked_logits(outputs).softmax(2), seen(outputs, present, self.task.modalities))
