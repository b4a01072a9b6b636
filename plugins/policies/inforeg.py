"""Information regulation: early on, the modality that is ahead is held back to where the epoch began (InfoReg)."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import require_logits, require_parameters, scores, unimodal_terms

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

WINDOW = 10
"""Epochs whose Fisher information is averaged, as in the authors' code."""


def growth(history: Tensor) -> Tensor:
    """(a_t - a_(t-1)) / a_t per modality, a the mean of the last `WINDOW` entries: [WINDOW + 1, M] -> [M]."""
    now, before = history[1:].mean(0), history[:-1].mean(0)
    return (now - before) / now.clamp(min=1e-30)


def restraint(score: Tensor, factor: float) -> Tensor:
    """factor * exp(tanh(s_m - largest other score)) for the one modality whose score is largest, else 0.

    score: [M], M >= 2, sums over the batch. Returns [M]; all 0 for a tie.

    Source: Huang et al., arXiv 2503.18595, and the authors' code for M = 2.
    """
    top = score.topk(2).values
    ahead = (score == top[0]) & (top[0] > top[1])
    return ahead.to(score.dtype) * factor * torch.exp(torch.tanh(top[0] - top[1]))


class InfoReg(ChangesGradients, Policy):
    """g_m <- g_m + beta_m (theta_m - theta_m at the start of the epoch), for the modality that is ahead.

    Ahead is whose logits alone give the labels most probability in the batch; beta = factor * exp(tanh(its lead)).
    Only in the prime learning window of that modality: while its Fisher information (the squared gradients of its
    weights, averaged over ten epochs) grows by more than `growing` from one epoch to the next. In the first ten
    epochs every growth is a large share, so that shorter trainings are regulated throughout. Adds each modality's
    own loss. The authors' factors differ by modality (audio 0.95, video 0.1), and the window is that of audio.
    """

    name = "inforeg"
    source = "Huang, Wei, Yang, Hu, CVPR 2025, arXiv 2503.18595, and the authors' code (InfoReg_CVPR2025)"
    traits = PolicyTraits(
        acts_on="gradients",
        arity=(2, None),
        needs_routes="joint",
        wants=("own_parameters", "logits", "trained_logits"),
        reads_labels=True,
    )

    class Params(Parameters):
        factor: float = param(
            0.95, "Strength of the restraint; 0: none.", ge=0, le=100, search=(0.1, 2.0), log=True
        )
        growing: float = param(
            0.05, "Least relative growth of Fisher information in the window.", ge=0, le=1, when="factor != 0"
        )

    params: Params
    fisher: Tensor
    history: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.own = require_parameters(fusion, self.name)
        require_logits(fusion, self.name)
        for i, parameters in enumerate(self.own.values()):
            for j, p in enumerate(parameters):
                self.register_buffer(f"anchor{i}_{j}", p.detach().clone())
        count = len(self.own)
        self.register_buffer("fisher", torch.zeros(count))
        self.register_buffer("history", torch.zeros(WINDOW + 1, count))
        self.register_buffer("window", torch.ones(count, dtype=torch.bool))

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return terms | unimodal_terms(self.name, terms, outputs, batch, self.fusion)

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        with torch.no_grad():
            beta = restraint(scores(fusion, outputs, batch), self.params.factor) * self.get_buffer("window")
            for i, parameters in enumerate(self.own.values()):
                for j, p in enumerate(parameters):
                    anchor = self.get_buffer(f"anchor{i}_{j}")
                    if progress.step == 0:
                        anchor.copy_(p)
                    if p.grad is None:
                        continue
                    p.grad.add_(beta[i] * (p - anchor))
                    if p.ndim > 1:
                        self.fisher[i] += p.grad.square().mean()

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        self.history.copy_(torch.cat([self.history[1:], self.fisher[None]]))
        self.get_buffer("window").copy_(growth(self.history) > self.params.growing)
        self.fisher.zero_()
