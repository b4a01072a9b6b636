"""DrFuse: shared and distinct representations, weighed by attention for each class (Yao et al. 2024).

Differences from the paper, which fuses records with X-rays: both representations are linear in the embedding of
one backbone per modality, where the paper divides each encoder's last layers; any number of modalities; exclusive
classes, so that a class's own loss, which ranks the attention, is that of the class against the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, mask_of

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Progress,
    Task,
    param,
)


def mean_logit(h: Tensor, mask: Tensor) -> Tensor:
    """logit of the mean of sigmoid(h_m) over the modalities that are there, stable at any size.

    Args:
        h: [B, M, D].
        mask: [B, M] bool, some modality in every row.

    Returns:
        [B, D]. For two: log(2 e^(a + b) + e^a + e^b) - log(2 + e^a + e^b).

    Source: arXiv 2403.06197, the shared representation of the authors' code.
    """
    gone = ~mask[..., None]
    yes, no = (F.logsigmoid(x).masked_fill(gone, -torch.inf).logsumexp(1) for x in (h, -h))
    return yes - no


def divergence(h: Tensor, mask: Tensor) -> Tensor:
    """Sum over pairs of modalities, where both are there, of sum_d (a log(a / m) + b log(b / m)) / 2,
    a = sigmoid(h_1), b = sigmoid(h_2), m = (a + b) / 2: [B, M, D], [B, M] -> [B], >= 0.

    Source: arXiv 2403.06197, the shared part of the disentanglement, and the authors' code.
    """
    total = h.new_zeros(len(h))
    for i, j in combinations(range(h.shape[1]), 2):
        logs = F.logsigmoid(h[:, i]), F.logsigmoid(h[:, j])
        middle = torch.logaddexp(*logs) - torch.log(h.new_tensor(2.0))
        each = [(log.exp() * (log - middle)).sum(1) for log in logs]
        total = total + (mask[:, i] & mask[:, j]).to(h.dtype) * (each[0] + each[1]) / 2
    return total


def ranking(attention: Tensor, losses: Tensor, mask: Tensor) -> Tensor:
    """Attention must follow losses: mean over pairs of tokens of the mean of max(0, w_worse - w_better).

    Args:
        attention: w, [B, K, T].
        losses: [B, K, T], of each token alone; no gradient is expected to flow into them.
        mask: [B, T] bool.

    Returns:
        A scalar >= 0. Source: arXiv 2403.06197, attention ranking, and the authors' code (the mean is over the
        positive entries of a pair).
    """
    found = []
    for i, j in combinations(range(attention.shape[2]), 2):
        sign = torch.where(losses[..., i] < losses[..., j], 1.0, -1.0)
        wrong = (sign * (attention[..., j] - attention[..., i])).relu() * (mask[:, i] & mask[:, j])[:, None]
        found.append(wrong.sum() / (wrong > 0).sum().clamp(min=1))
    return torch.stack(found).mean()


def against_others(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y for the label's class and -log(1 - p_k) for each other one: [B, K]."""
    p = logits.softmax(1)
    own = F.one_hot(labels, p.shape[1]).bool()
    return -torch.where(own, p, 1 - p).clamp(min=1e-6).log()


class DiagonalHead(nn.Module):
    """[B, K d], one vector per class -> [B, K]: z_k = w_k f_k + b_k."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, classes)

    def forward(self, embedding: Tensor) -> Tensor:
        each = torch.unflatten(embedding, 1, (self.layer.out_features, -1))
        logits: Tensor = (each * self.layer.weight).sum(2) + self.layer.bias
        return logits


@dataclass
class Disentangled(Output):
    """An output with the representations and the attention that it is made from."""

    shared: Tensor | None = None
    """[B, M, d]."""
    distinct: Tensor | None = None
    """[B, M, d]."""
    attention: Tensor | None = None
    """[B, K, M + 1], the last of the shared token."""
    from_shared: Tensor | None = None
    """[B, K], logits of the shared representation alone."""


class DrFuse(Fusion):
    """Disentangled fusion: per class, attention over what is distinct in each modality and what all share.

    s = `mean_logit` of the s_m; tokens t = [d_1; ..; d_M; s] of what a cell has; w_k = softmax_t(q k_tk /
    sqrt(d)), q the mean query; z_k = W_k sum_t w_kt v_t. Trained on the losses of the joint head, of heads on each
    d_m and on s, plus `disentangle` times (`divergence` of the s_m, + sum_m |cos(s_m, d_m)|) and `ranking` times
    `ranking`. Parameters: sum_m [P + S(C_m) + 2 (D_m + 1) d + (d + 1) K] + (5 d + 4) d + 2 (d + 1) K +
    (d + 1) (K + 2) d: M backbones.
    """

    name = "drfuse"
    source = "Yao, Yin, Cheung, Liu, Qin, AAAI 2024, arXiv 2403.06197, and the authors' code (drfuse)"
    traits = FusionTraits(
        emits=("joint", "modality"),
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters", "meeting_losses"),
        own_backbones=True,
    )

    class Params(Parameters):
        width: int = param(64, "Width d of every representation (authors: 256).", ge=4, search=[32, 64, 128])
        disentangle: float = param(
            1.0, "Weight of what makes shared features alike and distinct ones different.", ge=0,
            search=(0.1, 2.0), log=True,
        )  # fmt: skip
        ranking: float = param(1.0, "Weight of the ranking of attention.", ge=0, search=(0.1, 2.0), log=True)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        d, classes = params.width, task.n_classes
        self.to_shared, self.to_distinct = (Projections(self.encoders.dims, d) for _ in range(2))
        self.project = nn.Sequential(
            nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, d)
        )
        self.heads = PerModality({m: nn.Linear(d, classes) for m in task.modalities})
        self.shared_head = nn.Linear(d, classes)
        self.attend = nn.Linear(d, (2 + classes) * d)
        self.head = DiagonalHead(d, classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names, classes = self.task.modalities, self.task.n_classes
        embeddings = self.encoders(images, present)
        mask = mask_of(embeddings, present)
        shared, distinct = self.project(self.to_shared(embeddings)), self.to_distinct(embeddings)  # [B, M, d]
        common = mean_logit(shared, mask)
        tokens = torch.cat([distinct, common[:, None]], 1)
        there = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        q, v, k = torch.split(self.attend(tokens).unflatten(2, (2 + classes, -1)), [1, 1, classes], 2)
        query = torch.where(there[..., None], q[:, :, 0], 0.0).sum(1) / there.sum(1, keepdim=True)
        scores = torch.einsum("bd,btkd->bkt", query, k) * self.params.width**-0.5
        attention = torch.where(there[:, None], scores, -torch.inf).softmax(2)
        fused = (attention @ torch.where(there[..., None], v[:, :, 0], 0.0)).flatten(1)
        outputs: Outputs = {
            "joint": Disentangled(
                self.head(fused), fused, reads=frozenset(names), head=self.head,
                shared=shared, distinct=distinct, attention=attention, from_shared=self.shared_head(common),
            )
        }  # fmt: skip
        for i, m in enumerate(names):
            if m in self.heads:
                head = self.heads[m]
                outputs[m] = Output(head(distinct[:, i]), distinct[:, i], reads=frozenset({m}), head=head)
        return outputs

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms, out = super().task_terms(outputs, batch, progress), outputs["joint"]
        if not isinstance(out, Disentangled) or out.shared is None or out.distinct is None:
            return terms
        assert out.from_shared is not None
        assert out.attention is not None
        assert out.labels is not None
        shared, distinct, from_shared = out.shared.float(), out.distinct.float(), out.from_shared.float()
        mask = mask_of(list(shared.unbind(1)), batch.present)
        told = F.cross_entropy(from_shared, out.labels, reduction="none", label_smoothing=self.label_smoothing)
        apart = torch.where(mask, F.cosine_similarity(shared, distinct, dim=2).abs(), 0.0).sum(1)
        alone = [*(outputs[m].logits.float() for m in self.task.modalities), from_shared]
        losses = torch.stack([against_others(z.detach(), out.labels) for z in alone], 2)
        there = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return {
            **terms,
            "shared": told * batch.weights_of(out.labels),
            "disentangle": self.params.disentangle * (divergence(shared, mask) + apart),
            "ranking": self.params.ranking * ranking(out.attention.float(), losses, there),
        }

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return outputs["joint"].logits.float().softmax(1)
