"""Late fusion by Dempster's rule: each network's logits are evidence with an uncertainty mass."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks, of_routes, stacked_logits

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def dempster(evidence: Tensor) -> Tensor:
    """Expected class probabilities after combining M opinions by the reduced Dempster rule, in closed form.

    Opinion m: alpha = e + 1, S = sum_k alpha_k, belief b_k = e_k / S, uncertainty u = K / S. The rule
    b_k = (b_k b'_k + b_k u' + b'_k u) / Z, u = u u' / Z multiplies b_k + u and u, so that over all M
    p_k = b_k + u / K is in proportion to prod_m (1 + e_mk / K) - 1 + 1/K. No evidence (e = 0) changes nothing.

    Args:
        evidence: [B, M, K], not negative.

    Returns:
        [B, K]; uniform where there is no evidence at all.

    Source: Han et al., ICLR 2021, arXiv 2102.02051, section 3.2 (their pairwise rule).
    """
    k = evidence.shape[2]
    logs = (evidence / k).log1p().sum(1)
    top = logs.amax(1, keepdim=True)  # all scaled by exp(-top), against overflow
    mass = (logs - top).exp() - (1 - 1 / k) * (-top).exp()
    return mass / mass.sum(1, keepdim=True)


def evidence_of(logits: Tensor, how: str) -> Tensor:
    """Logits as evidence, not negative; the exponential stops at exp(30)."""
    if how == "exp":
        return logits.clamp(max=30).exp()
    return F.softplus(logits) if how == "softplus" else logits.relu()


class DempsterShafer(Fusion):
    """One network per modality; Dempster's rule on Dirichlet evidences e = softplus(logits).

    p_k in proportion to prod_m (1 + e_mk / K) - 1 + 1/K over the modalities that a cell has: a network without
    evidence has no influence. Heads learn by cross-entropy, not by the evidential loss (that is TMC), which leaves
    the level of the logits, hence of the evidence, to the optimiser. Parameters:
    sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "dempster_shafer"
    source = "combination rule of Han et al. (TMC), ICLR 2021, arXiv 2102.02051, section 3.2"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    class Params(Parameters):
        evidence: Literal["softplus", "relu", "exp"] = param(
            "softplus",
            "How a logit becomes evidence, which is never negative.",
            search=["softplus", "relu", "exp"],
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        logits = stacked_logits(outputs)
        evidence = evidence_of(logits, self.params.evidence)
        if present is not None:
            there = of_routes(present, outputs, self.task.modalities)
            evidence = torch.where(there[..., None], evidence, 0.0)
        return dempster(evidence)
