"""Late fusion weighted by each network's confidence in each cell."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks, mixture, seen, stacked_logits

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def confidence(logits: Tensor, measure: str) -> Tensor:
    """How sure each network is of each cell, logits [B, M, K] -> [B, M]; higher is surer.

    entropy: sum_k p_k log p_k, in [-log K, 0]. energy: logsumexp_k z_k (Liu et al., NeurIPS 2020, arXiv
    2010.03759, at T = 1, negated). maximum: max_k p_k.
    """
    if measure == "energy":
        return logits.logsumexp(2)
    logs = logits.log_softmax(2)
    return (logs.exp() * logs).sum(2) if measure == "entropy" else logs.exp().amax(2)


def confidence_weights(sure: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """softmax_m(c_m / T) over the modalities that are there; absent ones get zero. [B, M] -> [B, M]."""
    return torch.where(mask, sure / temperature, -torch.inf).softmax(1)


class LateConfidence(Fusion):
    """One network per modality; their probabilities weighted per cell by how sure each network is.

    p = sum_m a_m p_m, a = softmax_m(c_m / T) over the modalities that a cell has, c_m = -H(p_m) or another
    measure. T -> infinity is the plain mean, T -> 0 the surest network alone. Trained on the sum of the
    heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "late_confidence"
    source = "baseline: a sum rule whose weights are each cell's confidences"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        measure: Literal["entropy", "energy", "maximum"] = param(
            "entropy",
            "entropy: negative entropy (nats); energy: logsumexp of the logits; maximum: top probability.",
            search=["entropy", "energy", "maximum"],
            when="modalities > 1",
        )
        temperature: float = param(
            0.5,
            "T, in the measure's unit. Small: the surest network alone; large: the mean.",
            gt=0,
            search=(0.05, 5.0),
            log=True,
            when="modalities > 1",
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        logits, mask = stacked_logits(outputs), seen(outputs, present, self.task.modalities)
        sure = confidence(logits, self.params.measure)
        return mixture(logits.softmax(2), confidence_weights(sure, mask, self.params.temperature), mask)
