"""The best of M single-modality networks, chosen on validation cells."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def macro_f1(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean over the classes that occur (in either) of 2 TP / (2 TP + FP + FN). [N], [N] -> scalar."""
    guess, truth = (F.one_hot(t, n_classes).double() for t in (predicted, labels))
    hits, total = (guess * truth).sum(0), guess.sum(0) + truth.sum(0)
    return (2 * hits / total.clamp_min(1)).sum() / (total > 0).sum()


class BestSingle(Combiner, Fusion):
    """One network per modality; only the one that is best on validation cells is kept (best of M).

    p = softmax(W_b h_b(x_b)), b = argmax_m of the validation score (the first of equals); until chosen, and for
    cells that lack b, the mean of all that are there. Trained on the sum of the heads' losses. Parameters:
    sum_m [P + S(C_m) + (D + 1) K] in training, P + S(C_b) + (D + 1) K deployed.
    """

    name = "best_single"
    source = "baseline: the modality that is best alone on validation cells"
    traits = FusionTraits(
        emits=("modality",),
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant",),
        own_backbones=True,
    )

    class Params(Parameters):
        criterion: Literal["macro_f1", "nll"] = param(
            "macro_f1",
            "Validation score that chooses: macro-F1, or the cross-entropy.",
            search=["macro_f1", "nll"],
            when="modalities > 1",
        )

    params: Params
    weights: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)
        self.register_buffer("weights", torch.ones(len(task.modalities)))  # one-hot once chosen

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        mask = seen(outputs, present, self.task.modalities)
        weights = of_routes(self.weights, outputs, self.task.modalities)
        return mixture(stacked_logits(outputs).softmax(2), weights, mask)

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        scores = torch.stack([self._score(o.logits.detach().double(), labels) for o in val_outputs.values()])
        self.weights.copy_(F.one_hot(scores.argmax(), len(scores)))

    def deploy(self, present: tuple[str, ...] | None = None) -> nn.Module:
        there = present or self.task.modalities
        wanted = {m for m, w in zip(self.task.modalities, self.weights.tolist(), strict=True) if w > 0}
        return super().deploy(tuple(m for m in there if m in wanted) or there)

    def _score(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.params.criterion == "nll":
            return -F.cross_entropy(logits, labels)
        return macro_f1(logits.argmax(1), labels, self.task.n_classes)
