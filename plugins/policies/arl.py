"""Asymmetric representation learning: networks learn faster, the surer they are and the less they are used."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import (
    masked_mean,
    own_logits,
    require_logits,
    require_parameters,
    unimodal_terms,
)

from wbcbench.contracts import (
    Batch,
    ChangesGradients,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    param,
)


def asymmetry(size: Tensor, entropy: Tensor, sharpness: float) -> Tensor:
    """w = softmax_m(T (1 - c_m) s_m): c_m the share of modality m in the size of all logits, s_m its share of
    certainty, s_m ~ 1 / max(0.3, H_m / sum H).

    Args:
        size: [M], mean absolute logits, > 0.
        entropy: [M], mean entropies of the predictions, >= 0.
        sharpness: T.

    Returns:
        [M], sums to 1; 1 / M each for equal modalities.

    Source: Wei et al., arXiv 2507.10203, and the authors' code for M = 2, where 1 - c_m is the other's share.
    """
    size = size / size.sum().clamp(min=1e-12)
    certain = 1 / (entropy / entropy.sum().clamp(min=1e-12)).clamp(min=0.3)
    return (sharpness * (1 - size) * certain / certain.sum()).softmax(0)


class ARL(ChangesGradients, Policy):
    """L + gamma sum_m CE(z_m), and after `start` epochs the gradients of modality m are scaled by 1 + w_m.

    z_m are the logits of the modality's route, or its part of a joint head. Until `start` the modalities' losses
    count once and gradients are left alone. The authors' code computes w as here and then leaves it at 0.5 (no
    line passes it on to the networks), so that both modalities are scaled by 1.5; here it is applied, as the paper
    and its readme say. They scale at the output of the encoder, which is the same for all parameters before it.
    """

    name = "arl"
    source = "Wei, Luo, Luo, ICCV 2025, arXiv 2507.10203; coefficients of the authors' code (main_arl_variance.py)"
    traits = PolicyTraits(
        acts_on="gradients",
        arity=(2, None),
        needs_routes="joint",
        wants=("own_parameters", "logits", "trained_logits"),
        waits="start",
        reads_labels=True,
    )

    class Params(Parameters):
        gamma: float = param(
            4.0, "Factor on the modalities' own losses (authors: 1 to 5).", ge=0, search=(1.0, 5.0)
        )
        sharpness: float = param(
            8.0, "T of the coefficients; 0: the same for all (authors: 4 or 8).", ge=0, le=100, search=[4.0, 8.0]
        )
        start: int = param(6, "Epochs before gradients are scaled (authors: 6 of 100).", ge=0, le=1000)

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.own = require_parameters(fusion, self.name)
        require_logits(fusion, self.name)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        factor = self.params.gamma if progress.epoch >= self.params.start else 1.0
        own = unimodal_terms(self.name, terms, outputs, batch, self.fusion)
        return terms | {name: factor * term for name, term in own.items()}

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        if progress.epoch < self.params.start:
            return
        with torch.no_grad():
            sizes, entropies = [], []
            for logits, _, there in own_logits(fusion, outputs, batch).values():
                sizes.append(masked_mean(logits.abs().sum(1), there).mean())
                entropies.append(masked_mean(torch.special.entr(logits.softmax(1)).sum(1), there).mean())
            scale = 1 + asymmetry(torch.stack(sizes), torch.stack(entropies), self.params.sharpness)
            for parameters, k in zip(self.own.values(), scale, strict=True):
                for p in parameters:
                    if p.grad is not None:
                        p.grad.mul_(k)
