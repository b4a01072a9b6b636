"""Stacking: logistic regression on the probabilities of one network per modality."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Networks, stacked_logits

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

UNSEEN = -30.0
"""Bias of a class that no validation cell has."""


def fit_stacker(
    features: Tensor, labels: Tensor, n_classes: int, inverse_penalty: float, balanced: bool
) -> tuple[Tensor, Tensor]:
    """Weight [K, F] and bias [K] of a softmax regression, L2-penalised by |W|^2 / (2 C).

    `features`: [N, F]; `labels`: [N], at least two classes. Classes that do not occur get probability 0.
    """
    model = LogisticRegression(
        C=inverse_penalty, class_weight="balanced" if balanced else None, max_iter=5000, tol=1e-6
    )
    model.fit(features.cpu().double().numpy(), labels.cpu().numpy())
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn states two classes as one logit
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight, bias = torch.zeros(n_classes, features.shape[1]), torch.full((n_classes,), UNSEEN)
    known = torch.from_numpy(model.classes_).long()
    weight[known], bias[known] = torch.from_numpy(coef).float(), torch.from_numpy(intercept).float()
    return weight, bias


class Stacking(Combiner, Fusion):
    """Stacked generalisation: logistic regression on the probabilities of one network per modality.

    p = softmax(V [p_1; ..; p_M] + c), p_m = softmax(W_m h_m(x_m)); V and c are fitted on validation cells.
    Those were held out from the networks' gradients, so to the combiner these are out-of-fold predictions
    (early stopping has used them); its own validation metrics are cross-fitted. The mean of the p_m until
    fitted. Trained on the sum of the heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K], and (M K + 1) K of
    the combiner, counted but not trained by gradient.
    """

    name = "stacking"
    source = "Wolpert, Neural Networks 5, 1992"
    traits = FusionTraits(emits=("modality",), offers=("own_embedding", "own_parameters"), own_backbones=True)

    class Params(Parameters):
        inverse_penalty: float = param(
            1.0, "C of scikit-learn; small: strong L2 penalty.", gt=0, search=(0.01, 100.0), log=True
        )
        balanced: bool = param(
            False, "Weight validation cells inversely to their class's frequency.", search=[False, True]
        )

    params: Params
    fitted: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)
        k, features = task.n_classes, len(task.modalities) * task.n_classes
        # Parameters, so that they are counted; no gradient trains them.
        self.weight = nn.Parameter(torch.zeros(k, features), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(k), requires_grad=False)
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        probs = stacked_logits(outputs).softmax(2)
        stacked = (probs.flatten(1) @ self.weight.T + self.bias).softmax(1)
        return torch.where(self.fitted, stacked, probs.mean(1))

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        if bool((labels == labels[0]).all()):
            return  # nothing to regress; the mean stays
        features = stacked_logits(val_outputs).detach().softmax(2).flatten(1)
        k, options = self.task.n_classes, self.params
        weight, bias = fit_stacker(features, labels, k, options.inverse_penalty, options.balanced)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.fitted.fill_(True)
