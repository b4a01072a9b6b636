"""Diagnosing and re-learning: encoders that separate training cells only are reset in part (Wei et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from wbcbench_plugins.policies._modalities import own_modules

from wbcbench.contracts import (
    Backbone,
    Evaluated,
    Fusion,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    ReadsValidation,
    param,
)

LAST = 0.75
"""Share of training after which only a first diagnosis is made: what is reset must be learned again."""


def purity(features: Tensor, labels: Tensor, clusters: int) -> float:
    """Share of cells that have the label of most cells of their cluster, by k-means on features scaled to [-1, 1].

    Args:
        features: [n, D].
        labels: [n].
        clusters: how many; fewer if there are fewer cells.

    Returns:
        In [1 / K, 1]; 1 where each cluster has one label.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import minmax_scale

    x, y = minmax_scale(features.cpu().double().numpy(), (-1, 1)), labels.cpu().numpy()
    found = KMeans(min(clusters, len(x)), n_init=10, random_state=0).fit_predict(x)
    return float(sum(np.bincount(y[found == k]).max() for k in np.unique(found)) / len(y))


class Relearning(ReadsValidation, Policy):
    """Every `every` epochs, theta_m <- a_m theta_m(0) + (1 - a_m) theta_m, a_m = tanh(lambda |P_train - P_val|).

    P is the purity of clusters of the embeddings of modality m, theta(0) its encoder at the start: the more its
    encoder separates training cells better than validation cells, the more of it is learned again. The best epoch
    on validation cells is kept as ever. Embeddings of training cells cost a pass each time.
    """

    name = "relearning"
    source = "Wei, Li, Feng, Hu, ECCV 2024, arXiv 2407.09705; the authors' code: after 20, 40 and 60 of 90 epochs"
    traits = PolicyTraits(arity=(2, None), wants=("features",), waits="every")

    class Params(Parameters):
        every: int = param(5, "Epochs between diagnoses.", ge=1, le=1000, search=[2, 5, 10])
        strength: float = param(
            3.0, "lambda: how much a gap resets; 0: nothing.", ge=0, le=100, search=(0.5, 10.0), log=True
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.encoders = {m: i for i, m in enumerate(fusion.task.modalities)}
        for m, i in self.encoders.items():
            for j, p in enumerate(self._parameters_of(fusion, m)):
                self.register_buffer(f"start_{i}_{j}", p.detach().clone())

    def after_validation(
        self, fusion: Fusion, validation: Evaluated, training: Callable[[], Evaluated], progress: Progress
    ) -> None:
        p, epochs = self.params, progress.epoch + 1
        if epochs % p.every or epochs > max(p.every, LAST * progress.epochs):
            return
        seen, classes = training(), fusion.task.n_classes
        for m in self.encoders:
            train, val = (
                purity(e.features[m], next(iter(e.outputs.values())).labels, classes)  # type: ignore[arg-type]
                for e in (seen, validation)
            )
            self.reset(fusion, m, math.tanh(p.strength * abs(train - val)))

    @torch.no_grad()
    def reset(self, fusion: Fusion, modality: str, share: float) -> None:
        """Move the modality's encoder by this share of the way back to its start."""
        for j, p in enumerate(self._parameters_of(fusion, modality)):
            p.lerp_(getattr(self, f"start_{self.encoders[modality]}_{j}"), share)

    def _parameters_of(self, fusion: Fusion, modality: str) -> list[nn.Parameter]:
        mine = [net for m, net in own_modules(fusion) if m == modality and isinstance(net, Backbone)]
        return [p for net in mine for p in net.parameters()]
