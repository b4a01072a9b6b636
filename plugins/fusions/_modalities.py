"""One backbone per modality: what fusions of predictions and fusions of embeddings are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Output, Outputs, PerModality, Task, over_rows


class Networks(nn.Module):
    """One network with a head of its own per modality. Parameters: sum_m [P + S(C_m) + (D + 1) K]."""

    def __init__(self, task: Task, backbone: BackboneFactory) -> None:
        super().__init__()
        trunks = {m: backbone(c, modality=m) for m, c in task.channels.items()}
        self.backbones = PerModality(trunks)
        self.heads = PerModality({m: nn.Linear(trunks[m].dim, task.n_classes) for m in task.modalities})

    def forward(self, images: dict[str, Tensor], maps: bool = False) -> Outputs:
        outputs: Outputs = {}
        for m, backbone in self.backbones.items():
            features = backbone(images[m], maps)
            outputs[m] = Output(
                logits=self.heads[m](features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({m}),
                head=self.heads[m],
            )
        return outputs


class Encoders(nn.Module):
    """One backbone per modality, without heads; M embeddings out. Parameters: sum_m [P + S(C_m)]."""

    dims: list[int]
    """Width of every modality's embedding."""

    def __init__(self, task: Task, backbone: BackboneFactory) -> None:
        super().__init__()
        trunks = {m: backbone(c, modality=m) for m, c in task.channels.items()}
        self.backbones = PerModality(trunks)
        self.modalities = task.modalities
        self.dims = [trunk.dim for trunk in trunks.values()]

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None) -> list[Tensor]:
        """M embeddings [B, D_m]; where a modality is absent its image is never read and its row is zero."""
        if present is None:
            return [trunk(images[m]).embedding for m, trunk in self.backbones.items()]
        embeddings = []
        for i, (m, dim) in enumerate(zip(self.modalities, self.dims, strict=True)):
            if m not in self.backbones:
                embeddings.append(images[m].new_zeros(images[m].shape[0], dim))
                continue
            image = torch.where(over_rows(present[:, i], images[m]), images[m], 0.0)
            embeddings.append(torch.where(present[:, i, None], self.backbones[m](image).embedding, 0.0))
        return embeddings


class Projections(nn.ModuleList):
    """One linear layer with bias per modality, to a common width H. Parameters: sum_m (D_m + 1) H."""

    def __init__(self, dims: list[int], width: int) -> None:
        super().__init__([nn.Linear(d, width) for d in dims])

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """M tensors [B, D_m] -> [B, M, H]."""
        return torch.stack([layer(h) for layer, h in zip(self, embeddings, strict=True)], 1)


def mask_of(embeddings: list[Tensor], present: Tensor | None) -> Tensor:
    """[B, M] bool: what may be read. A cell with nothing keeps all its (zero) embeddings."""
    if present is None:
        shape = (embeddings[0].shape[0], len(embeddings))
        return torch.ones(shape, dtype=torch.bool, device=embeddings[0].device)
    return present | ~present.any(1, keepdim=True)


def joint(task: Task, embedding: Tensor, head: nn.Module) -> Outputs:
    """The one route of a fusion of embeddings."""
    reads = frozenset(task.modalities)
    return {"joint": Output(logits=head(embedding), embedding=embedding, reads=reads, head=head)}


def stacked_logits(outputs: Outputs) -> Tensor:
    """[B, M, K] float32, in the order of the routes."""
    return torch.stack([o.logits.float() for o in outputs.values()], 1)


def seen(outputs: Outputs, present: Tensor | None, modalities: tuple[str, ...]) -> Tensor:
    """[B, routes] bool: which routes had an image. A cell with nothing counts as having all."""
    first = next(iter(outputs.values())).logits
    if present is None:
        return torch.ones(first.shape[0], len(outputs), dtype=torch.bool, device=first.device)
    mine = of_routes(present, outputs, modalities)
    return mine | ~mine.any(1, keepdim=True)


def of_routes(values: Tensor, outputs: Outputs, modalities: tuple[str, ...]) -> Tensor:
    """[..., M] in the order of all modalities -> [..., routes], those of the routes that there are."""
    return torch.stack([values[..., modalities.index(m)] for m in outputs], -1)


def mixture(probs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean of the probabilities of those that are there: sum_m w_m p_m / sum_m w_m.

    Args:
        probs: [B, M, K].
        weights: [M] or [B, M], not negative. A cell whose weights are all zero gets the plain mean.
        mask: [B, M] bool.

    Returns:
        [B, K].
    """
    w = torch.where(mask, weights, 0.0)
    w = torch.where(w.sum(1, keepdim=True) > 0, w, mask.to(w.dtype))
    w = w / w.sum(1, keepdim=True)
    return (w[..., None] * torch.where(mask[..., None], probs, 0.0)).sum(1)
