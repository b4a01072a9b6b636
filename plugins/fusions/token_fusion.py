"""TokenFusion: tokens that score as uninformative are replaced by those of other modalities at the same place.

Differences from the paper: the tokens are the places of the backbones' last maps (any backbone), read by a small
transformer of this fusion's own; for M > 2 a token is replaced by the mean of the others, without projection;
positions are added once, before the first layer. The sparsity term is the mean over tokens, not their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._tokens import attend, check_heads, token_trunks

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


def substitute(tokens: Sequence[Tensor], scores: Sequence[Tensor], threshold: float) -> list[Tensor]:
    """e'_m,i = e_m,i where s_m,i >= theta, else the mean over n != m of e_n,i.

    Wang et al., CVPR 2022, arXiv 2204.08721 (M = 2, without projection). tokens: M of [B, N, d];
    scores: M of [B, N].
    """
    if len(tokens) < 2:
        return list(tokens)
    total = torch.stack(list(tokens)).sum(0)
    return [
        torch.where((s >= threshold)[:, :, None], x, (total - x) / (len(tokens) - 1))
        for x, s in zip(tokens, scores, strict=True)
    ]


@dataclass
class ScoredOutput(Output):
    """An output with the mean score of its tokens, summed over layers and modalities."""

    scores: Tensor | None = None
    """[B]."""


class SharedLayer(nn.Module):
    """Transformer layer with shared weights and, per modality, norms and scores of its own.

    Parameters: 12 d^2 + 9 d shared; 4 d + (d + 1) d / 2 + d / 2 + 1 per modality.
    """

    def __init__(self, names: tuple[str, ...], dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm1 = nn.ModuleList(nn.LayerNorm(dim) for _ in names)
        self.norm2 = nn.ModuleList(nn.LayerNorm(dim) for _ in names)
        self.score = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1), nn.Sigmoid()) for _ in names
        )

    def forward(self, tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """M of [B, N, d] -> M of [B, N, d] and their scores, M of [B, N]."""
        results, scores = [], []
        for x, norm1, norm2, score in zip(tokens, self.norm1, self.norm2, self.score, strict=True):
            y = norm1(x)
            s = score(y)  # [B, N, 1]
            q, k, v = self.query_key_value(y * s).chunk(3, 2)
            x = x + self.out(attend(q, k, v, self.heads))
            results.append(x + self.mlp(norm2(x)))
            scores.append(s[:, :, 0])
        return results, scores


class TokenFusion(Fusion):
    """Uninformative tokens replaced by other modalities' tokens; transformer shared, norms private.

    Adds `sparsity` times the tokens' mean score to the loss. Parameters: sum_m [P + S(C_m) + (D + 1) d + N d] +
    L [12 d^2 + 9 d + M (4 d + (d + 1) d / 2 + d / 2 + 1)] + (M d + 1) K.
    """

    name = "token_fusion"
    source = "Wang et al., CVPR 2022, arXiv 2204.08721"
    traits = FusionTraits(stage_maps=False, offers=("own_parameters",))

    class Params(Parameters):
        threshold: float = param(
            0.02,
            "Tokens that score less are replaced; 0: none.",
            ge=0,
            le=1,
            search=(0.005, 0.2),
            log=True,
            when="modalities > 1",
        )
        sparsity: float = param(1e-2, "Weight of the mean score.", ge=0, le=10, search=(1e-4, 1.0), log=True)
        layers: int = param(2, "Transformer layers.", ge=1, le=12, search=[1, 2, 3])
        dim: int = param(64, "Width d of the tokens, even.", ge=4, le=2048, search=[32, 64, 128])
        heads: int = param(4, "Attention heads; must divide `dim`.", ge=1, le=64)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        check_heads(params.dim, params.heads)
        self.backbones = token_trunks(task, backbone, params.dim)
        self.layers = nn.ModuleList(
            SharedLayer(task.modalities, params.dim, params.heads) for _ in range(params.layers)
        )
        self.head = nn.Linear(len(task.modalities) * params.dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        tokens = [self.backbones[m](images[m]) for m in names]
        total = tokens[0].new_zeros(tokens[0].shape[0])
        for layer in self.layers:
            tokens, scores = layer(tokens)
            tokens = substitute(tokens, scores, self.params.threshold)
            total = total + torch.stack([s.mean(1) for s in scores]).sum(0)
        embedding = torch.cat([x.mean(1) for x in tokens], 1)
        out = ScoredOutput(self.head(embedding), embedding, reads=frozenset(names), head=self.head, scores=total)
        return {"joint": out}

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = super().task_terms(outputs, batch, progress)
        out = outputs["joint"]
        if isinstance(out, ScoredOutput) and out.scores is not None:
            terms["sparsity"] = self.params.sparsity * out.scores.float()
        return terms
