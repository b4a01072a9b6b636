"""Nearest neighbours in a pretrained network's embedding: no training at all, and so the usual first teacher."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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
    param,
)

FLOOR = 1e-6
"""Least probability before its logarithm is taken: a class without a neighbour has no infinite logit."""


class Knn(SolvedOnce, Fusion):
    """k nearest training cells by cosine similarity of embeddings; one modality, run once per modality.

    Nothing is trained, so the backbone must be pretrained. Each of the k neighbours i votes for its class with
    exp(s_i / temperature), s_i its similarity, times the weight of its class (`training.class_weighting`); logits
    are the logarithm of the shares of votes. The network holds the embeddings of the unaugmented training cells:
    P + n (D + K) parameters for a backbone of P and D features, n training cells and K classes. A training cell is
    among its own neighbours, so that answers for training cells are somewhat too sure.
    """

    name = "knn"
    source = "Wu et al., CVPR 2018, arXiv 1805.01978; as in Caron et al. (DINO), ICCV 2021, arXiv 2104.14294"
    traits = FusionTraits(emits=("modality",), arity=(1, 1), offers=(), solves=("redundant",), vectors=True)

    class Params(Parameters):
        k: int = param(20, "Neighbours; all training cells if there are fewer.", ge=1, search=(5, 50))
        temperature: float = param(
            0.07,
            "Of the similarities: the lower, the more the nearest decide.",
            gt=0,
            search=(0.02, 0.5),
            log=True,
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        (self.modality,) = task.modalities
        self.backbone = backbone(task.channels[self.modality]).requires_grad_(False)
        self._hold(torch.zeros(0, self.backbone.dim), torch.zeros(0, task.n_classes))

    def _hold(self, bank: Tensor, votes: Tensor) -> None:
        self.bank = nn.Parameter(bank, requires_grad=False)
        self.votes = nn.Parameter(votes, requires_grad=False)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As many cells as were stored."""
        names = (f"{prefix}bank", f"{prefix}votes")
        if all(isinstance(state.get(name), Tensor) for name in names):
            self._hold(*(torch.zeros_like(state[name], device=self.bank.device) for name in names))
        super()._load_from_state_dict(state, prefix, *rest)

    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        return F.normalize(self.backbone(images[self.modality]).embedding.float(), dim=1)

    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        self._hold(features.clone(), (F.one_hot(labels, len(weights)) * weights.to(labels.device)).float())

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        features = self.backbone(images[self.modality], maps)
        embedding = F.normalize(features.embedding.float(), dim=1)
        similarity, nearest = (embedding @ self.bank.T).topk(min(self.params.k, len(self.bank)), dim=1)
        share = (similarity / self.params.temperature).softmax(1)
        votes = (share[:, :, None] * self.votes[nearest]).sum(1)
        probabilities = votes / votes.sum(1, keepdim=True).clamp_min(1e-12)
        return {
            self.modality: Output(
                logits=probabilities.clamp_min(FLOOR).log(),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({self.modality}),
            )
        }
