"""Late fusion of temperature-scaled networks: one temperature per modality, fitted on validation cells."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
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


def scaled_product(logits: Tensor, inverse: Tensor, mask: Tensor) -> Tensor:
    """softmax(sum_m z_m / T_m) over the modalities that are there; an absent expert contributes nothing.

    `logits`: [B, M, K]; `inverse`: [M], 1 / T_m; `mask`: [B, M] bool. Returns [B, K].
    """
    return torch.where(mask[..., None], logits * inverse[:, None], 0.0).sum(1).softmax(1)


def fit_inverse(logits: Tensor, labels: Tensor, most: float = 20.0) -> Tensor:
    """[M] inverse temperatures in [0, most] of least cross-entropy of softmax(sum_m z_m / T_m).

    Convex, so that L-BFGS from 1/M finds the one minimum. `logits`: [N, M, K]; `labels`: [N].
    Source: Guo et al., ICML 2017, arXiv 1706.04599, section 4.2, for M = 1.
    """
    z, y = logits.detach().cpu().double(), labels.cpu()

    def loss(inverse: np.ndarray) -> tuple[float, np.ndarray]:
        beta = torch.from_numpy(np.array(inverse)).requires_grad_()
        value = F.cross_entropy((z * beta[:, None]).sum(1), y)
        (gradient,) = torch.autograd.grad(value, beta)
        return value.item(), gradient.numpy()

    count = z.shape[1]
    with torch.enable_grad():
        found = minimize(loss, np.full(count, 1 / count), jac=True, method="L-BFGS-B", bounds=[(0, most)] * count)
    return torch.from_numpy(found.x)


class LateTemperature(Combiner, Fusion):
    """One network per modality, each with a temperature fitted on validation cells; their product or mean.

    p = softmax(sum_m z_m / T_m), z_m = W_m h_m(x_m), or mean_m softmax(z_m / T_m) (`combine`), over the
    modalities that a cell has; T_m = M or 1 until fitted. Trained on the sum of the heads' losses.
    Parameters: sum_m [P + S(C_m) + (D + 1) K], and M temperatures (buffers).
    """

    name = "late_temperature"
    source = "Guo et al., ICML 2017, arXiv 1706.04599, section 4.2, per modality"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        combine: Literal["product", "mean"] = param(
            "product",
            "product: temperatures fitted together; mean: each for its own network, then probabilities averaged.",
            search=["product", "mean"],
            when="modalities > 1",
        )

    params: Params
    inverse: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)
        count = len(task.modalities)
        start = 1 / count if params.combine == "product" else 1.0
        self.register_buffer("inverse", torch.full((count,), start))  # 1 / T_m

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        inverse = of_routes(self.inverse, outputs, self.task.modalities)
        logits, mask = stacked_logits(outputs), seen(outputs, present, self.task.modalities)
        if self.params.combine == "product":
            return scaled_product(logits, inverse, mask)
        return mixture((logits * inverse[:, None]).softmax(2), torch.ones_like(inverse), mask)

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        logits = stacked_logits(val_outputs)
        if self.params.combine == "product":
            self.inverse.copy_(fit_inverse(logits, labels))
        else:
            self.inverse.copy_(torch.cat([fit_inverse(z[:, None], labels) for z in logits.unbind(1)]))
