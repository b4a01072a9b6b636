"""The floor by chance: a class drawn for each cell, as often as the training cells have it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    SolvedOnce,
    Task,
)
from wbcbench.data.counter import uniform

_BUMP = 1e-3
"""How far the drawn class's probability is raised above the others: just enough to make it the first choice."""


class RandomGuess(SolvedOnce, Fusion):
    """Draws each cell's class by the training cells' frequencies; the trial's seed decides the draw.

    Its expected accuracy is sum_k f_k^2 and its expected balanced accuracy 1 / K. The draw is a function of the
    cell's pixels and the seed, so that a cell's prediction does not depend on its neighbours in the batch. Its
    probabilities are the frequencies, with the drawn class just above all others. Parameters: 0.
    """

    name = "random_guess"
    aliases = ("random",)
    source = "the usual floor; sklearn.dummy.DummyClassifier(strategy='stratified')"
    traits = FusionTraits(missing="native", solves=(), builds_backbone=False, vectors=True)
    frequencies: Tensor
    key: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.register_buffer("frequencies", torch.full((task.n_classes,), 1 / task.n_classes))
        self.register_buffer("key", torch.randint(0, 2**31, (1,)))

    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        return next(iter(images.values())).new_zeros(next(iter(images.values())).shape[0], 0)

    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        counts = torch.bincount(labels, minlength=len(self.frequencies)).float().clamp(min=0.5)
        self.frequencies.copy_(counts / counts.sum())

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        ink = torch.zeros(next(iter(images.values())).shape[0], dtype=torch.int64, device=self.key.device)
        for i, m in enumerate(self.task.modalities):
            # Rounded, because the order of a float sum may depend on the size of the batch.
            mine = (images[m].double().mean(tuple(range(1, images[m].ndim))) * 1e6).round().long().abs()
            ink = ink * 31 + (mine if present is None else torch.where(present[:, i], mine, 0))
        chance = uniform(self.key, ink.abs()).double()
        drawn = torch.searchsorted(self.frequencies.double().cumsum(0), chance).clamp(max=self.task.n_classes - 1)
        first = nn.functional.one_hot(drawn, self.task.n_classes).bool()
        p = torch.where(first, self.frequencies.max() + _BUMP, self.frequencies)
        logits = (p / p.sum(1, keepdim=True)).log()
        reads = frozenset(self.task.modalities)
        return {"joint": Output(logits, self.features(images, present), reads=reads)}
