"""Prototypical modal rebalance: the modality that is behind is pulled to class prototypes (Fan et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import Embeddings, labels_of, masked_mean, shown

from wbcbench.contracts import (
    Batch,
    Draw,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    param,
)
from wbcbench.errors import IncompatibleError


def similarities(embeddings: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """-||h - p_k||, the logits of the classifier without parameters; a class without prototype has none.

    Args:
        embeddings: [R, D].
        prototypes: [K, D].
        known: [K] bool.

    Returns:
        [R, K], <= 0. The gradient at h = p_k is 0.

    Source: Fan et al., arXiv 2211.07089, and the authors' code (the distance is not squared).
    """
    far = torch.cdist(embeddings, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    return (-far).masked_fill(~known, torch.finfo(far.dtype).min / 2)


def behind(scores: Tensor, alpha: float) -> Tensor:
    """alpha where a score is less than the largest, else 0: [M] -> [M]."""
    return alpha * (scores < scores.amax()).to(scores.dtype)


class PMR(Policy):
    """alpha * CE(-||h_m - p||, y) of the modalities that are behind, p their class prototypes.

    Behind is whoever's prototypes give the labels less probability, summed over the batch, than the best
    modality's. Prototypes are class means of an epoch's embeddings, p <- (1 - momentum) mean + momentum p; in the
    first epoch, the means so far. The authors compute them by a pass over a tenth of the cells in evaluation mode
    before each epoch; the entropy term of the paper is not in their code, and left out.
    """

    name = "pmr"
    source = "Fan et al., CVPR 2023, arXiv 2211.07089; the coefficients of the authors' code (Modal-Imbalance-PMR)"
    traits = PolicyTraits(arity=(2, None), wants=("own_embedding",), reads_labels=True)

    class Params(Parameters):
        alpha: float = param(
            1.0, "Factor on the prototype losses.", ge=0, search=(0.1, 2.0), log=True, when="until != 0"
        )
        momentum: float = param(
            0.2, "Share of the old prototypes that is kept.", ge=0, lt=1, when="alpha != 0 and until != 0"
        )
        until: float = param(
            0.67, "Share of training after which nothing is added (authors: 100 of 150 epochs).", ge=0, le=1,
            when="alpha != 0",
        )  # fmt: skip

    params: Params
    counts: Tensor
    known: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        if len(fusion.task.modalities) < 2:
            raise IncompatibleError("pmr compares modalities; give it at least two of them.")
        self.embeddings = Embeddings(fusion, self.name, distinct=True)
        self.modalities, classes = fusion.task.modalities, fusion.task.n_classes
        for i, m in enumerate(self.modalities):
            self.register_buffer(f"prototypes{i}", torch.zeros(classes, self.embeddings.widths[m]))
            self.register_buffer(f"sums{i}", torch.zeros(classes, self.embeddings.widths[m]))
        self.register_buffer("counts", torch.zeros(len(self.modalities), classes))
        self.register_buffer("known", torch.zeros(len(self.modalities), classes, dtype=torch.bool))

    def images(self, batch: Batch, draw: Draw) -> Batch:
        self.embeddings.reset()
        return batch

    def _now(self, i: int) -> tuple[Tensor, Tensor]:
        """Prototypes [K, D] of modality i and which are known: of the last epochs, else the means so far."""
        means = self.get_buffer(f"sums{i}") / self.counts[i].clamp(min=1)[:, None]
        there = self.known[i]
        return torch.where(there[:, None], self.get_buffer(f"prototypes{i}"), means), there | (self.counts[i] > 0)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        if progress.fraction >= self.params.until or not self.params.alpha:
            return terms
        losses, scores = {}, []
        for i, (m, out) in enumerate(self.embeddings(outputs, batch).items()):
            assert out.embedding is not None
            labels = labels_of(out)
            there = shown(batch, self.modalities, m, labels)
            with torch.no_grad():
                rows = there.to(out.embedding.dtype)
                self.get_buffer(f"sums{i}").index_add_(0, labels, out.embedding * rows[:, None])
                self.counts[i].index_add_(0, labels, rows)
                prototypes, known = (t.clone() for t in self._now(i))
            near = similarities(out.embedding, prototypes, known)
            loss = F.cross_entropy(near, labels, reduction="none") * batch.weights_of(labels)
            losses[f"{self.name}.{m}"] = masked_mean(loss, there & known[labels])
            right = near.detach().softmax(1).gather(1, labels[:, None])[:, 0]
            scores.append(masked_mean(right, there).mean())
        factors = behind(torch.stack(scores), self.params.alpha)
        return terms | {name: loss * k for (name, loss), k in zip(losses.items(), factors, strict=True)}

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        for i in range(len(self.modalities)):
            old, sums = self.get_buffer(f"prototypes{i}"), self.get_buffer(f"sums{i}")
            there = self.counts[i] > 0
            means = sums / self.counts[i].clamp(min=1)[:, None]
            moved = (1 - self.params.momentum) * means + self.params.momentum * old
            fresh = torch.where(self.known[i][:, None], moved, means)
            old.copy_(torch.where(there[:, None], fresh, old))
            self.known[i] |= there
            sums.zero_()
        self.counts.zero_()
