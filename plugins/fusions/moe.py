"""Mixture of experts over all embeddings: a router picks experts per cell, with a load-balance loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Progress,
    Task,
    param,
)


def route(scores: Tensor, top: int) -> Tensor:
    """Softmax over the `top` highest scores of each row, 0 elsewhere: [B, E] -> [B, E].

    A single expert has its probability among all E: a softmax over one score is 1 and would give the router
    no gradient from the task.

    Source: Shazeer et al., ICLR 2017, arXiv 1701.06538, eq. 3-5 without noise; for one expert, Fedus et al.,
    JMLR 2022, arXiv 2101.03961, eq. 2.
    """
    chosen = scores >= scores.topk(top, 1).values[:, -1:]
    if top == 1:
        return torch.where(chosen, scores.softmax(1), 0.0)
    return torch.where(chosen, scores, -torch.inf).softmax(1)


def balance(scores: Tensor, top: int) -> Tensor:
    """Per-cell load-balance terms [B]; their mean is E sum_e f_e P_e, 1 when all experts are used equally.

    f_e: share of the batch's choices that go to expert e (no gradient); P_e: mean router probability.
    Source: Fedus et al. (Switch Transformer), JMLR 2022, arXiv 2101.03961, eq. 4-6, for `top` choices.
    """
    chosen = (route(scores.detach(), top) > 0).to(scores.dtype)
    share = chosen.mean(0) / chosen.mean(0).sum()
    return scores.shape[1] * (scores.softmax(1) * share).sum(1)


@dataclass
class Routed(Output):
    """An output with the router's scores."""

    scores: Tensor | None = None
    """[B, E]."""


class MoE(Fusion):
    """Mixture of experts: per cell a router mixes the best few of E experts, which all read every embedding.

    h = sum_e g_e relu(V_e [h_1; ..; h_M]), g = softmax over the top few of R [h_1; ..; h_M] (of one: its share of
    the softmax over all); absent embeddings are zero. All experts are computed, and counted. Task loss:
    cross-entropy + balance E sum_e f_e P_e.
    Parameters: sum_m [P + S(C_m)] + (J + 1) E + E (J + 1) H + (H + 1) K, J = sum_m D_m: M backbones.
    """

    name = "moe"
    source = "Shazeer et al., ICLR 2017, arXiv 1701.06538; balance of Fedus et al., arXiv 2101.03961"
    traits = FusionTraits(
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        experts: int = param(4, "Experts E.", ge=1, search=[2, 4, 8])
        top: int = param(2, "Experts mixed per cell; E or more: all.", ge=1, search=[1, 2, 4])
        hidden: int = param(64, "Units H of each expert.", ge=1, search=[32, 64, 128])
        balance: float = param(0.01, "Weight of the load-balance term.", ge=0, search=(0.001, 0.1), log=True)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        joined = sum(self.encoders.dims)
        self.top = min(params.top, params.experts)
        self.router = nn.Linear(joined, params.experts)
        self.experts = nn.Linear(joined, params.experts * params.hidden)
        self.head = nn.Linear(params.hidden, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        joined = torch.cat(self.encoders(images, present), 1)
        scores = self.router(joined)
        answers = self.experts(joined).relu().unflatten(1, (self.params.experts, -1))  # [B, E, H]
        fused = (route(scores, self.top)[..., None] * answers).sum(1)
        reads = frozenset(self.task.modalities)
        return {"joint": Routed(self.head(fused), embedding=fused, reads=reads, head=self.head, scores=scores)}

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = super().task_terms(outputs, batch, progress)
        scores = getattr(outputs["joint"], "scores", None)
        if scores is not None:
            terms["balance"] = self.params.balance * balance(scores.float(), self.top)
        return terms
