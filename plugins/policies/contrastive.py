"""Contrastive alignment: embeddings of one cell are pulled together, those of different cells apart."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.policies._modalities import Embeddings, index_of, masked_mean, shown

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


def info_nce(a: Tensor, b: Tensor, same: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """-log (sum over positives exp(cos / T) / sum over all exp(cos / T)) per row of `a`, against the rows of `b`.

    Args:
        a: [R, D].
        b: [Q, D].
        same: [R, Q] bool, which rows of `b` show the cell of a row of `a` (several, where rows repeat).
        usable: [Q] bool, rows of `b` that show anything.
        temperature: T > 0.

    Returns:
        [R], >= 0; 0 where a row has no positive. log Q where all embeddings agree and each row has one.

    Source: van den Oord et al., arXiv 1807.03748, equation 4; between views, Tian et al., arXiv 1906.05849.
    """
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    low = torch.finfo(scores.dtype).min
    positive = same & usable[None]
    everyone = scores.masked_fill(~usable[None], low).logsumexp(1)
    near = scores.masked_fill(~positive, low).logsumexp(1)
    return torch.where(positive.any(1), everyone - near, 0.0)


class Contrastive(Policy):
    """weight * mean over pairs of modalities of (NCE(u, v) + NCE(v, u)) / 2, on the modalities' embeddings.

    Pairs are found by cell id, so rows that show different cells in different modalities are not positives.
    Absent modalities are neither anchors nor candidates. Each embedding goes through its own linear layer to
    `width`, discarded after training. Negatives are the batch's other rows.
    """

    name = "contrastive"
    source = "van den Oord et al., arXiv 1807.03748; Tian et al., ECCV 2020, arXiv 1906.05849"
    traits = PolicyTraits(arity=(2, None), wants=("own_embedding",))

    class Params(Parameters):
        weight: float = param(0.1, "Factor on the loss.", ge=0, search=(0.01, 1.0), log=True)
        temperature: float = param(
            0.1, "T: lower puts more weight on near negatives.", gt=0, le=10, when="weight != 0"
        )
        width: int = param(
            64,
            "Width of the space in which embeddings are compared.",
            ge=1,
            search=[32, 64, 128],
            when="weight != 0",
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        if len(fusion.task.modalities) < 2:
            raise IncompatibleError("contrastive compares modalities; give it at least two of them.")
        self.embeddings = Embeddings(fusion, self.name, distinct=True)
        widths = self.embeddings.widths
        self.projections = nn.ModuleDict({m: nn.Linear(d, self.params.width) for m, d in widths.items()})

    def images(self, batch: Batch, draw: Draw) -> Batch:
        self.embeddings.reset()
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        found = self.embeddings(outputs, batch)
        modalities, t = self.fusion.task.modalities, self.params.temperature
        codes = {m: self.projections[m](out.embedding) for m, out in found.items()}
        there = {m: shown(batch, modalities, m, codes[m]) for m in modalities}
        losses = []
        for u, v in combinations(modalities, 2):
            same = index_of(found[u])[:, None] == index_of(found[v])[None]
            for a, b, mates in ((u, v, same), (v, u, same.T)):
                anchors = there[a] & (mates & there[b][None]).any(1)
                losses.append(masked_mean(info_nce(codes[a], codes[b], mates, there[b], t), anchors))
        return terms | {self.name: torch.stack(losses).mean() * self.params.weight}
