"""Flex-MoE: a learned embedding for what is missing, and experts for combinations of modalities (Yun et al. 2024).

Differences from the paper: a modality is one token, the embedding of its backbone; the router has no noise; the
transformer layer has the usual residuals (the authors' adds its attention twice and no input). The paper's warm-up
on cells sorted by the number of modalities is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, Projections, mask_of
from wbcbench_plugins.fusions._tokens import attend, check_heads
from wbcbench_plugins.fusions.moe import route

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
from wbcbench.errors import IncompatibleError


def missing_code(mask: Tensor) -> Tensor:
    """[B, M] bool -> [B] int64: 0 for complete cells, else the number whose bits are what is missing."""
    places = torch.tensor([2**m for m in range(mask.shape[1])], device=mask.device)
    return ((~mask).long() * places).sum(1)


def uneven(importance: Tensor) -> Tensor:
    """Squared coefficient of variation, var / mean^2 with n - 1 in the variance: [E] -> scalar; 0 if equal.

    Source: Shazeer et al., ICLR 2017, arXiv 1701.06538, eq. 7.
    """
    return importance.var() / (importance.mean().square() + 1e-10)


def gate_loss(scores: Tensor, gates: Tensor, code: Tensor) -> Tensor:
    """Even use of experts; incomplete cells use those beyond the first, and their own expert must score highest.

    Args:
        scores: of the router, [B, M, E].
        gates: [B, M, E], what `route` made of them.
        code: `missing_code` of the cells, [B].

    Returns:
        A scalar >= 0: cv^2 of the summed gates of complete cells, + that of incomplete ones over experts 1 and on,
        + the mean cross-entropy of incomplete cells' scores with expert `code`.

    Source: arXiv 2410.08245 (G-router and S-router), and the authors' code, without noise.
    """
    whole = (code == 0)[:, None, None].to(gates.dtype)
    even = uneven((gates * whole).sum((0, 1))) + uneven((gates * (1 - whole)).sum((0, 1))[1:])
    less = code > 0
    wanted = code[:, None].expand(-1, scores.shape[1])
    told = F.cross_entropy(scores.transpose(1, 2), wanted, reduction="none").mean(1)
    return even + torch.where(less, told, 0.0).sum() / less.sum().clamp(min=1)


@dataclass
class Routed(Output):
    """An output with what the router did."""

    scores: Tensor | None = None
    """[B, M, E]."""
    code: Tensor | None = None
    """[B]."""


class FlexMoE(Fusion):
    """A token per modality, learned where it is missing; attention, then experts that a router picks per token.

    t_m = A_m h_m + e_m, or the entry of a bank for (what is missing, m); x = t + attention(LN t); y = x +
    sum_e g_e F_e(LN x) over the best `top` of E experts; p = softmax(W [y_1; ..; y_M]). Adds `gate` times
    `gate_loss`. All experts are computed, and counted. Parameters: sum_m [P + S(C_m) + (D_m + 1) d] + M d +
    2^M M d + 4 d^2 + 5 d + d E + E (4 d^2 + 3 d) + (M d + 1) K, with tokens of width d: M backbones.
    """

    name = "flex_moe"
    source = "Yun, Choi, Peng et al., NeurIPS 2024, arXiv 2410.08245, and the authors' code (flex-moe)"
    traits = FusionTraits(
        stage_maps=False,
        arity=(1, 4),
        missing="native",
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        experts: int = param(
            16, "Experts E, at least one per combination of modalities: 2^M - 1.", ge=1, le=256, search=[16, 32]
        )
        top: int = param(4, "Experts mixed per token.", ge=1, le=256, search=[2, 4])
        dim: int = param(
            64, "Width d of tokens; an expert has 2 d hidden units (authors: 128).", ge=4, le=2048,
            search=[32, 64, 128],
        )  # fmt: skip
        heads: int = param(4, "Attention heads; must divide `dim`.", ge=1, le=64)
        gate: float = param(0.01, "Weight of the router's loss.", ge=0, search=(0.001, 0.1), log=True)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        d, count, experts = params.dim, len(task.modalities), params.experts
        if experts < 2**count - 1:
            raise IncompatibleError(
                f"flex_moe has an expert per combination of modalities, {2**count - 1} for {count} of them, but "
                f"only {experts}. Set fusion.experts={2**count - 1} or more."
            )
        self.top = min(params.top, experts)
        self.encoders = Encoders(task, backbone)
        self.projections = Projections(self.encoders.dims, d)
        self.positions = nn.Parameter(torch.zeros(count, d))
        self.bank = nn.Parameter(torch.randn(2**count, count, d))
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query_key_value, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.router = nn.Linear(d, experts, bias=False)
        self.expand, self.reduce = (
            nn.Parameter(torch.randn(experts, a, b) * a**-0.5) for a, b in ((d, 2 * d), (2 * d, d))
        )
        self.inner, self.outer = (nn.Parameter(torch.zeros(experts, n)) for n in (2 * d, d))
        self.head = nn.Linear(count * d, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images, present)
        mask = mask_of(embeddings, present)
        code = missing_code(mask)
        tokens = torch.where(mask[..., None], self.projections(embeddings), self.bank[code]) + self.positions
        q, k, v = self.query_key_value(self.norm1(tokens)).chunk(3, 2)
        x = tokens + self.out(attend(q, k, v, self.params.heads))
        y = self.norm2(x)
        scores = self.router(y)  # [B, M, E]
        gates = route(scores.flatten(0, 1), self.top).view_as(scores)
        hidden = F.gelu(torch.einsum("bmd,edh->bmeh", y, self.expand) + self.inner)
        answers = torch.einsum("bmeh,ehd->bmed", hidden, self.reduce) + self.outer
        fused = (x + (gates[..., None] * answers).sum(2)).flatten(1)
        reads = frozenset(self.task.modalities)
        return {"joint": Routed(self.head(fused), fused, reads=reads, head=self.head, scores=scores, code=code)}

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms, out = super().task_terms(outputs, batch, progress), outputs["joint"]
        if isinstance(out, Routed) and out.scores is not None and out.code is not None:
            scores = out.scores.float()
            gates = route(scores.flatten(0, 1), self.top).view_as(scores)
            terms["gate"] = self.params.gate * gate_loss(scores, gates, out.code)
        return terms
