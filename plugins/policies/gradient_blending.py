"""Gradient blending: routes are weighted by gain over overfitting (Wang et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of

from wbcbench.contracts import Batch, Fusion, Outputs, Parameters, Policy, PolicyTraits, Progress, param
from wbcbench.errors import IncompatibleError


def blend(train: Tensor, val: Tensor, train_before: Tensor, val_before: Tensor) -> Tensor:
    """w_k proportional to G_k / O_k^2: gain in validation loss over the square of the growth of the gap.

    Args:
        train, val: [R] mean losses of each route now.
        train_before, val_before: [R] at an earlier epoch.

    Returns:
        [R] >= 0 with sum R: equal routes get 1 each. A route that got worse on validation gets 0; all 1 where
        every one did. O is at least 1e-3, so that a route that does not overfit has a finite weight.

    Source: arXiv 1905.12681, the optimal blend and its normalisation (sum R here, 1 there).
    """
    gain = (val_before - val).relu()
    overfit = ((val - train) - (val_before - train_before)).abs().clamp(min=1e-3)
    raw = gain / overfit.square()
    return torch.where(raw.sum() > 0, raw / raw.sum().clamp(min=1e-30) * len(raw), torch.ones_like(raw))


class GradientBlending(Policy):
    """The routes' losses are weighted by w_k, re-estimated every `every` epochs; 1 until the first estimate.

    The first estimate compares with the first epoch, each other one with the one before; so a training of no more
    than `every` epochs would not change and is refused. A variant: losses of the routes in the running training
    replace those of the paper's separately trained networks, which cost one training per route and estimate.
    Validation labels enter training, as in the paper.
    """

    name = "gradient_blending"
    aliases = ("gblend",)
    source = "Wang, Tran, Feiszli, CVPR 2020, arXiv 1905.12681 (online; estimated from the joint training)"
    traits = PolicyTraits(
        acts_on="weights",
        needs_routes="several",
        wants=("trained_logits",),
        waits="every",
        reads_labels=True,
    )

    class Params(Parameters):
        every: int = param(5, "Epochs between estimates (super-epoch).", ge=1, le=1000, search=[2, 5, 10])

    params: Params
    weights: Tensor
    sums: Tensor
    count: Tensor
    before: Tensor
    known: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.routes = fusion.routes
        if len(self.routes) < 2:
            raise IncompatibleError(
                f"gradient_blending weights several routes, but '{fusion.name}' has one. Choose a fusion with a "
                "head per modality, such as late."
            )
        n = len(self.routes)
        self.register_buffer("weights", torch.ones(n))
        self.register_buffer("sums", torch.zeros(n))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("before", torch.zeros(2, n))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            found = [F.cross_entropy(outputs[r].logits, labels_of(outputs[r])) for r in self.routes]
            self.sums += torch.stack(found)
            self.count += 1
        weight = dict(zip(self.routes, self.weights, strict=True))
        return {name: value * weight.get(name, 1.0) for name, value in terms.items()}

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        train = self.sums / self.count.clamp(min=1)
        self.sums.zero_()
        self.count.zero_()
        done = progress.epoch + 1
        if done > 1 and done % self.params.every:
            return
        val = torch.tensor([losses[r] for r in self.routes], device=train.device)
        found = blend(train, val, self.before[0], self.before[1])
        self.weights.copy_(torch.where(self.known, found, self.weights))
        self.before.copy_(torch.stack([train, val]))
        self.known.fill_(True)
