"""Late fusion with one weight per modality, fitted on validation cells."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks, mixture, of_routes, seen, stacked_logits

from wbcbench.contracts import (
    BackboneFactory,
    Combiner,
    Fusion,
    FusionTraits,
    Outputs,
    Parameters,
    Task,
    param,
)


def fit_weights(likelihoods: Tensor, prior: float = 0.0, steps: int = 2000) -> Tensor:
    """[M] mixture weights that maximise sum_i log sum_m w_m L_im + prior sum_m log w_m, by EM.

    Concave on the simplex, and EM stays inside it: w_m = softmax(v)_m for some v, with no step size.

    Args:
        likelihoods: [N, M], the probability that network m gives to the label of cell i.
        prior: pseudo-cells per modality.

    Source: Dempster, Laird & Rubin, JRSS B 1977, section 4.3 (mixtures with known components).
    """
    like = likelihoods.double().clamp_min(1e-12)
    count, modalities = like.shape
    w = like.new_full((modalities,), 1 / modalities)
    for _ in range(steps):
        share = w * like
        w = ((share / share.sum(1, keepdim=True)).sum(0) + prior) / (count + modalities * prior)
    return w


class LateWeighted(Combiner, Fusion):
    """One network per modality; the weighted mean of their probabilities, weights fitted on validation cells.

    p = sum_m w_m softmax(W_m h_m(x_m)), w on the simplex (the softmax of M numbers), of least cross-entropy
    on validation cells; uniform until fitted, renormalised over the modalities that a cell has. Trained on
    the sum of the heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K], and M weights (a buffer).
    """

    name = "late_weighted"
    source = "linear opinion pool, its weights fitted on validation cells"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        prior: float = param(
            1.0,
            "Pseudo-cells per modality that pull towards equal weights. 0: maximum likelihood.",
            ge=0,
            search=(0.1, 1000.0),
            log=True,
            when="modalities > 1",
        )

    params: Params
    weights: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)
        self.register_buffer("weights", torch.full((len(task.modalities),), 1 / len(task.modalities)))

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        weights = of_routes(self.weights, outputs, self.task.modalities)
        mask = seen(outputs, present, self.task.modalities)
        return mixture(stacked_logits(outputs).softmax(2), weights, mask)

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        probs = stacked_logits(val_outputs).detach().softmax(2).cpu()
        likelihoods = probs[torch.arange(len(probs)), :, labels.cpu()]
        self.weights.copy_(fit_weights(likelihoods, self.params.prior))
