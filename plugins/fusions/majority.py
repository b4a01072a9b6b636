"""The floor of every board: always the most frequent class of the training cells."""

from __future__ import annotations

import torch
from torch import Tensor

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


class Majority(SolvedOnce, Fusion):
    """Predicts the training cells' class frequencies for every cell, without reading it.

    p = n_k / n. Parameters: 0. Its balanced accuracy is 1 / K, its AUROC 0.5.
    """

    name = "majority"
    source = "the usual floor; sklearn.dummy.DummyClassifier(strategy='prior')"
    traits = FusionTraits(missing="native", solves=(), builds_backbone=False, vectors=True)
    logits: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.register_buffer("logits", torch.zeros(task.n_classes))

    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        return next(iter(images.values())).new_zeros(next(iter(images.values())).shape[0], 0)

    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        # A class without training cells gets half a cell, so that its log-probability is finite.
        counts = torch.bincount(labels, minlength=len(self.logits)).float().clamp(min=0.5)
        self.logits.copy_((counts / counts.sum()).log())

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        cells = next(iter(images.values())).shape[0]
        reads = frozenset(self.task.modalities)
        return {"joint": Output(self.logits.expand(cells, -1), self.features(images, present), reads=reads)}
