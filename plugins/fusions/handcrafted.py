"""The floor without a network: logistic regression on hand-made features of every modality."""

from __future__ import annotations

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
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

RINGS = 4
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PER_CHANNEL = 3 + len(_QUANTILES) + 2 + RINGS


def rings(side: int) -> Tensor:
    """[S * S, 4] of 0 and 1: which of four rings of equal width around the centre a pixel is in."""
    place = (torch.arange(side) + 0.5) / side * 2 - 1
    radius = torch.hypot(place[:, None], place[None, :]).clamp(max=1 - 1e-6)
    return nn.functional.one_hot((radius * RINGS).long(), RINGS).flatten(0, 1)


def channel_features(x: Tensor, ring: Tensor | None = None) -> Tensor:
    """Hand-made features of one channel of a cell.

    Mean, standard deviation and skewness; five quantiles; mean and standard deviation of the gradient's size
    (texture); mean intensity of four rings around the centre (size and place of what is bright).

    Args:
        x: [B, S, S].
        ring: `rings(S)`, if already computed.

    Returns:
        [B, 14] in that order.
    """
    flat = x.flatten(1)
    mean, sd = flat.mean(1, keepdim=True), flat.std(1, keepdim=True).clamp(min=1e-6)
    skew = ((flat - mean) / sd).pow(3).mean(1, keepdim=True)
    quantiles = torch.quantile(flat, torch.tensor(_QUANTILES, dtype=x.dtype, device=x.device), dim=1).T
    steep = (x[:, 1:, :-1] - x[:, :-1, :-1]).square() + (x[:, :-1, 1:] - x[:, :-1, :-1]).square()
    edges = steep.sqrt().flatten(1)
    gradient = torch.stack([edges.mean(1), edges.std(1)], 1)
    ring = (rings(x.shape[-1]) if ring is None else ring).to(x)
    return torch.cat([mean, sd, skew, quantiles, gradient, flat @ ring / ring.sum(0)], 1)


class Handcrafted(SolvedOnce, Fusion):
    """Multinomial logistic regression (scikit-learn) on fourteen numbers per channel and their correlations.

    Features: `channel_features` of every channel, and the correlation of every pair of channels. They are
    standardised over the training cells and the scaling is folded into the one linear layer. With F = 14 C +
    C (C - 1) / 2 features for C channels in all: (F + 1) K parameters. The numbers of vectors are features as they
    are.
    """

    name = "handcrafted"
    source = "the usual floor: hand-made cell features and a linear classifier (scikit-learn)"
    traits = FusionTraits(solves=(), builds_backbone=False, vectors=True)

    class Params(Parameters):
        strength: float = param(
            1.0, "C: inverse strength of the L2 penalty.", gt=0, search=(0.01, 100.0), log=True
        )
        iterations: int = param(1000, "At most so many steps of L-BFGS.", ge=1)

    params: Params
    ring: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        channels = sum(c for m, c in task.channels.items() if m not in task.vectors)
        numbers = sum(task.channels[m] for m in task.vectors)
        self.register_buffer("ring", rings(task.image_size), persistent=False)
        self.head = nn.Linear(PER_CHANNEL * channels + channels * (channels - 1) // 2 + numbers, task.n_classes)

    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        numbers = [images[m].float() for m in self.task.modalities if m in self.task.vectors]
        pictures = [images[m] for m in self.task.modalities if m not in self.task.vectors]
        if not pictures:
            return torch.cat(numbers, 1)
        x = torch.cat(pictures, 1).float()
        cells, channels = x.shape[:2]
        single = channel_features(x.flatten(0, 1), self.ring).view(cells, -1)
        flat = x.flatten(2)
        flat = flat - flat.mean(2, keepdim=True)
        flat = flat / torch.linalg.vector_norm(flat, dim=2, keepdim=True).clamp(min=1e-6)
        first, second = torch.triu_indices(channels, channels, 1, device=x.device)
        return torch.cat([single, (flat @ flat.mT)[:, first, second], *numbers], 1)

    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        scaler = StandardScaler().fit(features.double().cpu().numpy())
        y = labels.cpu().numpy()
        model = LogisticRegression(
            C=self.params.strength,
            max_iter=self.params.iterations,
            class_weight={k: float(weights[k]) for k in range(self.task.n_classes)},
        ).fit(scaler.transform(features.double().cpu().numpy()), y)
        found = torch.as_tensor(model.coef_ / scaler.scale_)
        offset = torch.as_tensor(model.intercept_) - found @ torch.as_tensor(scaler.mean_)
        if len(found) == 1:  # two classes: scikit-learn gives the log-odds of the second
            found, offset = torch.cat([-found, found]) / 2, torch.cat([-offset, offset]) / 2
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.fill_(-30.0)  # a class without training cells is never predicted
            seen = torch.as_tensor(model.classes_, device=labels.device)
            self.head.weight[seen] = found.to(self.head.weight)
            self.head.bias[seen] = offset.to(self.head.bias)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        features = self.features(images, present)
        reads = frozenset(self.task.modalities)
        return {"joint": Output(self.head(features), features, reads=reads, head=self.head)}
