"""On-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from wbcbench_plugins.policies._modalities import (
    masked_mean,
    own_logits,
    own_modules,
    require_logits,
    require_parameters,
)

from wbcbench.contracts import (
    Backbone,
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


def discrepancy_ratios(scores: Tensor) -> Tensor:
    """How far each modality is ahead: rho_m = mean over j != m of s_m / s_j.

    Args:
        scores: [M] sums (or means) of the true class's probability, > 0.

    Returns:
        [M]; all 1 for equal scores. For M = 2, rho_1 rho_2 = 1.

    Source: arXiv 2203.15332, section 3.2; for M > 2 the authors advise the mean (issue 16 of their code).
    """
    m = len(scores)
    ratios = scores[:, None] / scores.clamp(min=1e-8)[None, :]
    return (ratios.sum(1) - ratios.diagonal()) / max(1, m - 1)


def coefficients(ratios: Tensor, alpha: float, onset: str) -> Tensor:
    """k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1 (equation 10: `jump`);
    or 1 - tanh(alpha max(0, rho_m - 1)), which is continuous at rho = 1 (`smooth`).

    Args:
        ratios: [M].
        alpha: >= 0; 0 changes nothing.

    Returns:
        [M] in (0, 1], no gradient expected.
    """
    if onset == "smooth":
        return 1 - torch.tanh(alpha * (ratios - 1).relu())
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios.relu()), 1.0)


def weights_of_encoders(fusion: Fusion, own: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """Of each modality's own parameters, the weights with more than one axis that are in its backbone.

    All that have more than one axis where no modality has a backbone of its own.
    """
    inside = {
        id(p)
        for _, module in own_modules(fusion)
        for part in module.modules()
        if isinstance(part, Backbone)
        for p in part.parameters()
    }
    kept = {m: [p for p in found if p.ndim > 1 and id(p) in inside] for m, found in own.items()}
    return kept if all(kept.values()) else {m: [p for p in found if p.ndim > 1] for m, found in own.items()}


class OGMGE(ChangesGradients, Policy):
    """The gradients of the modality that is ahead are scaled down, and Gaussian noise is added.

    Scores come from each modality's logits, over present rows: those of its route, or its part of a joint head
    that adds modalities up (`AddsLogits`: concat with one linear head is the paper's setting). Changed are the
    weights of the modality's backbone with more than one axis, so neither biases nor norms nor heads: the paper's
    code changes the convolutions of its encoders, its authors' BalanceBenchmark every such weight. Where the trunk
    is shared, the heads' weights are changed instead. An adaptive optimiser such as AdamW undoes a slowly changing
    scale; the paper uses SGD.
    """

    name = "ogm_ge"
    source = "Peng et al., CVPR 2022, arXiv 2203.15332"
    traits = PolicyTraits(
        acts_on="gradients", arity=(2, None), wants=("own_parameters", "logits", "trained_logits")
    )

    class Params(Parameters):
        alpha: float = param(
            0.3, "Strength of the modulation; 0: none.", ge=0, le=10, search=(0.05, 1.0), when="until != 0"
        )
        noise: float = param(
            1.0, "Noise in units of each gradient's own deviation; 0: plain OGM.", ge=0, le=10, when="until != 0"
        )
        until: float = param(1.0, "Share of training after which gradients are not changed.", ge=0, le=1)
        onset: Literal["jump", "smooth"] = param(
            "jump",
            "`jump`: the paper's, 1 - tanh(alpha rho) from rho > 1; `smooth`: 1 - tanh(alpha (rho - 1)).",
            when="alpha != 0 and until != 0",
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.own = weights_of_encoders(fusion, require_parameters(fusion, self.name))
        require_logits(fusion, self.name)

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        if progress.fraction >= self.params.until:
            return
        with torch.no_grad():
            scores = []
            for logits, labels, there in own_logits(fusion, outputs, batch).values():
                right = logits.softmax(1).gather(1, labels[:, None])[:, 0]
                scores.append(masked_mean(right, there).mean())
            scale = coefficients(discrepancy_ratios(torch.stack(scores)), self.params.alpha, self.params.onset)
            for i, m in enumerate(self.own):
                for j, p in enumerate(self.own[m]):
                    if p.grad is None:
                        continue
                    spread = p.grad.std(correction=0) if self.params.noise else None
                    p.grad.mul_(scale[i])
                    if spread is not None:
                        noise = progress.draw.normal(p.numel(), f"ogm_ge:{m}:{j}").to(p.device).view(p.shape)
                        p.grad.add_(noise * spread * self.params.noise)
