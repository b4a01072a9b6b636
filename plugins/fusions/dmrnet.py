"""DMRNet: every combination of modalities has a distribution of embeddings, not a point (Wei et al. 2024).

In training each row shows a combination of modalities drawn at random, all equally likely, as in the authors'
networks; so no policy is needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Draw,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Progress,
    Task,
    param,
)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = sum_d (sigma^2 + mu^2 - log sigma^2 - 1) / 2: [B, D], [B, D] -> [B]."""
    found: Tensor = (log_variance.exp() + mean.square() - log_variance - 1).sum(1) / 2
    return found


def drawn(uniform: Tensor, count: int) -> Tensor:
    """[B] in [0, 1) -> [B, M] bool, one of the 2^M - 1 combinations with at least one modality."""
    code = (uniform * (2**count - 1)).long().clamp(max=2**count - 2) + 1
    bits: Tensor = code[:, None] >> torch.arange(count, device=code.device)
    return bits % 2 == 1


def combination(present: Tensor) -> Tensor:
    """[B, M] bool -> [B] int64: the number whose bits are the modalities."""
    return (present.long() << torch.arange(present.shape[1], device=present.device)).sum(1)


@dataclass
class Distributed(Output):
    """An output with the distribution of its embedding."""

    mean: Tensor | None = None
    """[B, D]."""
    log_variance: Tensor | None = None
    """[B, D]."""


class DMRNet(Fusion):
    """A Gaussian per cell and combination of modalities; the combination that is hardest to tell counts more.

    h = mu + sigma * noise in training and mu otherwise, mu and log sigma^2 batch-normed linear maps of the
    concatenated embeddings, absent ones zero; p = softmax(W h). Adds `kl` times KL(N(mu, sigma^2) || N(0, 1)) and,
    once `warmup` epochs have shown which incomplete combination has the largest mean sigma^2, `hard` times that
    combination's cross-entropy again. The authors compare single modalities (M = 2); with more, all incomplete
    combinations are compared here. Parameters: sum_m [P + S(C_m)] + 2 (J + 3) J + (J + 1) K, J = sum_m D_m.
    """

    name = "dmrnet"
    source = "Wei, Luo, Wang, Luo, ECCV 2024, arXiv 2407.04458, and the authors' code (audio-visual main.py)"
    traits = FusionTraits(
        stage_maps=False,
        arity=(1, 6),
        missing="native",
        offers=("own_embedding", "own_parameters"),
        own_backbones=True,
    )

    class Params(Parameters):
        kl: float = param(
            1e-3, "Weight of the distance from the standard normal.", ge=0, search=(1e-4, 1e-2), log=True
        )
        hard: float = param(
            0.5, "Weight of the hardest combination's extra loss.", ge=0, search=(0.1, 2.0), log=True,
            when="modalities > 1",
        )  # fmt: skip
        warmup: int = param(
            6, "Epochs in which combinations are compared.", ge=1, le=1000, when="modalities > 1 and hard != 0"
        )

    params: Params
    spread: Tensor
    counts: Tensor

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        joined = sum(self.encoders.dims)
        self.to_mean, self.to_variance = (
            nn.Sequential(nn.Linear(joined, joined), nn.BatchNorm1d(joined)) for _ in range(2)
        )
        self.head = nn.Linear(joined, task.n_classes)
        for name in ("spread", "counts"):
            self.register_buffer(name, torch.zeros(2 ** len(task.modalities)))

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        kept = drawn(draw.uniform(len(batch), "dmrnet:combination"), len(self.task.modalities))
        if batch.present is not None:
            kept = torch.where((kept & batch.present).any(1, keepdim=True), kept & batch.present, batch.present)
        batch.present = kept
        return batch

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        joined = torch.cat(self.encoders(images, present), 1)
        mean, log_variance = self.to_mean(joined), self.to_variance(joined)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        h = mean + noise * (log_variance / 2).exp()
        out = Distributed(
            self.head(h), h, reads=frozenset(self.task.modalities), head=self.head, mean=mean,
            log_variance=log_variance,
        )  # fmt: skip
        return {"joint": out}

    def hardest(self) -> Tensor:
        """The incomplete combination of the largest mean variance, a scalar; 0 while none has been seen."""
        mean = torch.where(self.counts > 0, self.spread / self.counts.clamp(min=1), 0.0)
        mean = torch.cat([torch.zeros_like(mean[:1]), mean[1:-1]])
        return mean.argmax()

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms, out = super().task_terms(outputs, batch, progress), outputs["joint"]
        if not isinstance(out, Distributed) or out.mean is None or out.log_variance is None:
            return terms
        mean, log_variance = out.mean.float(), out.log_variance.float()
        terms["kl"] = self.params.kl * divergence(mean, log_variance)
        if batch.present is None or not self.params.hard or len(self.task.modalities) == 1:
            return terms
        which = combination(batch.present)
        if self.training and progress.epoch < self.params.warmup:
            with torch.no_grad():
                self.spread.index_add_(0, which, log_variance.exp().mean(1))
                self.counts.index_add_(0, which, torch.ones_like(which, dtype=self.counts.dtype))
        elif progress.epoch >= self.params.warmup:
            assert out.labels is not None
            chosen = ((which == self.hardest()) & (which > 0)).to(mean.dtype)
            loss = F.cross_entropy(
                out.logits, out.labels, reduction="none", label_smoothing=self.label_smoothing
            )  # fmt: skip
            terms["hard"] = self.params.hard * chosen * loss * batch.weights_of(out.labels)
        return terms
