"""Adaptive gradient modulation (Li et al. 2023): modality-wise responses by Shapley values, for any fusion."""

from __future__ import annotations

from itertools import combinations
from math import factorial, log

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of, require_parameters, shown

from wbcbench.contracts import (
    Batch,
    ChangesGradients,
    ForwardsAgain,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    param,
)
from wbcbench.contracts.policy import Run
from wbcbench.errors import IncompatibleError

LARGEST_LOSS = -log(1e-8)
"""No cell counts with more: the authors' least probability of a label is 1e-8."""


def shapley(values: dict[frozenset[int], Tensor], players: int) -> Tensor:
    """phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)).

    Args:
        values: every subset of 0..M-1 -> [R, K], the empty one included.
        players: M >= 1.

    Returns:
        [M, R, K]. They add up to v(all) - v(none); a player that changes nothing gets 0.

    Source: Shapley 1953; arXiv 2308.07686, section 3.
    """
    shares = []
    for m in range(players):
        others = [j for j in range(players) if j != m]
        subsets = [frozenset(s) for n in range(players) for s in combinations(others, n)]
        parts = [
            (values[s | {m}] - values[s])
            * (factorial(len(s)) * factorial(players - len(s) - 1) / factorial(players))
            for s in subsets
        ]
        shares.append(torch.stack(parts).sum(0))
    return torch.stack(shares)


def leads(losses: Tensor) -> Tensor:
    """r_m = exp(mean over j != m of (s_j - s_m)): above 1 where modality m is ahead of the others.

    Args:
        losses: [M] cross-entropies of the modality-wise responses, >= 0.

    Returns:
        [M]; their product is 1. Source: arXiv 2308.07686, section 3.
    """
    m = len(losses)
    return torch.exp((losses.sum() - m * losses) / max(1, m - 1))


def coefficients(now: Tensor, mean: Tensor, alpha: float) -> Tensor:
    """exp(alpha min(tau_m - r_m, 10)), r = `leads` of the batch's losses and tau = `leads` of the mean losses.

    Args:
        now: [M] losses of this batch.
        mean: [M] running means of the batches before it; equal values, such as zeros at the first, give tau = 1.
        alpha: >= 0; 0 changes nothing.

    Returns:
        [M] > 0: below 1 where modality m is further ahead than usual. Source: arXiv 2308.07686, section 3; the
        bound of 10 is that of the authors' code for CREMA-D.
    """
    return torch.exp(alpha * (leads(mean) - leads(now)).clamp(max=10.0))


class AGM(ForwardsAgain, ChangesGradients, Policy):
    """Gradients of modality m are scaled by exp(alpha (tau_m - r_m)); tau is r of the mean losses up to now.

    Responses are the logits of the modalities' routes; a fusion with only a joint route is run on every
    subset of modalities (2^M forward passes in eval mode, so M <= 4) and its logits are attributed by Shapley
    value. The parameters that belong to a modality (`_modalities`) are scaled.
    """

    name = "agm"
    source = "Li et al., ICCV 2023, arXiv 2308.07686"
    traits = PolicyTraits(acts_on="gradients", arity=(2, None), wants=("own_parameters",), subsets=4)

    class Params(Parameters):
        alpha: float = param(1.0, "Strength of the modulation; 0: none.", ge=0, le=8, search=(0.1, 4.0), log=True)

    params: Params
    mean: Tensor
    count: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.modalities = fusion.task.modalities
        self.own = require_parameters(fusion, self.name)
        self.routed = set(self.modalities) <= set(fusion.routes)
        most = self.traits.subsets
        if len(self.modalities) < 2 or (not self.routed and len(self.modalities) > most):
            raise IncompatibleError(
                f"agm compares 2 to {most} modalities of a joint network, or 2 and more with a head each, "
                f"but '{fusion.name}' has {len(self.modalities)}. Choose another fusion or other modalities."
            )
        self.register_buffer("mean", torch.zeros(len(self.modalities)))
        self.register_buffer("count", torch.zeros(()))

    def after_forward(self, run: Run, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        """Responses [M, R, K], and labels [M, R], into the batch's extras."""
        if self.routed:
            routes = [outputs[m] for m in self.modalities]
            logits = torch.stack([r.logits.detach() for r in routes])
            batch.extras[self.name] = logits, torch.stack([labels_of(r) for r in routes])
            return
        count, values = len(self.modalities), {}
        training = self.fusion.training
        self.fusion.eval()
        with torch.no_grad():
            for bits in range(2**count):
                subset = frozenset(i for i in range(count) if bits >> i & 1)
                images = {
                    m: x if i in subset else torch.zeros_like(x) for i, (m, x) in enumerate(batch.images.items())
                }
                values[subset] = run(images, self._present(subset, batch))["joint"].logits
        self.fusion.train(training)
        labels = labels_of(outputs["joint"]).expand(count, -1)
        batch.extras[self.name] = shapley(values, count), labels

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        with torch.no_grad():
            responses, labels = batch.extras[self.name]
            losses = []
            for m, z, y in zip(self.modalities, responses, labels, strict=True):
                there = shown(batch, self.modalities, m, y).float()
                loss = F.cross_entropy(z, y, reduction="none").clamp(max=LARGEST_LOSS)
                losses.append((loss * there).sum() / there.sum().clamp(min=1))
            now = torch.stack(losses)
            scale = coefficients(now, self.mean, self.params.alpha)
            self.count += 1
            self.mean += (now - self.mean) / self.count
            for m, k in zip(self.modalities, scale, strict=True):
                for p in self.own[m]:
                    if p.grad is not None:
                        p.grad.mul_(k)

    def _present(self, subset: frozenset[int], batch: Batch) -> Tensor:
        first = next(iter(batch.images.values()))
        mask = torch.zeros(len(first), len(self.modalities), dtype=torch.bool, device=first.device)
        for i in subset:
            mask[:, i] = True
        return mask if batch.present is None else mask & batch.present
