"""On-the-fly prediction modulation: features of the modality that is ahead are dropped (Wei et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of, masked_mean, shown

from wbcbench.contracts import (
    Batch,
    ChangesFeatures,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    modality_logits,
    param,
)
from wbcbench.errors import IncompatibleError


def drop_rates(scores: Tensor, base: float, slope: float) -> Tensor:
    """q_m = min(1, q (1 + lambda tanh(r_m - 1))) where r_m > 1, else 0; r_m = mean over j != m of s_m / s_j.

    Args:
        scores: [M] sums (or means) of the true class's probability, > 0.
        base: q in [0, 1].
        slope: lambda >= 0.

    Returns:
        [M] in [0, 1]; all 0 for equal scores. For M = 2 at most one is above 0.

    Source: the code published with arXiv 2410.11582, for two modalities; any number here, by the mean.
    """
    ratios = scores[:, None] / scores.clamp(min=1e-8)[None, :]
    ahead = (ratios.sum(1) - ratios.diagonal()) / max(1, len(scores) - 1) - 1
    return torch.where(ahead > 0, base * (1 + slope * torch.tanh(ahead)), 0.0).clamp(max=1)


class OPM(ChangesFeatures, Policy):
    """Each row's embedding of modality m becomes zero with probability q_m, which is above 0 for the one ahead.

    In a share `execute` of the steps. What is left is divided by 1 - sum_m D_m q_m / sum_m D_m, the expected
    share; rows that lost all modalities are left out of the loss. Scores are those of the modalities' parts of
    the joint head's logits, in the same batch.
    """

    name = "opm"
    source = (
        "Wei, Hu, Du, Wen, TPAMI 2024, arXiv 2410.11582; the authors' code: q = 0.5, lambda = 0.5, 70% of steps"
    )
    traits = PolicyTraits(arity=(2, None), needs_routes="joint", wants=("features", "logits"), reads_labels=True)

    class Params(Parameters):
        rate: float = param(0.5, "q: base probability of dropping.", ge=0, le=1, search=(0.1, 0.8))
        slope: float = param(
            0.5,
            "lambda: how much more where a modality is far ahead.",
            ge=0,
            le=10,
            when="rate != 0",
            search=(0.0, 1.0),
        )
        execute: float = param(0.7, "Share of the steps that drop.", ge=0, le=1, when="rate != 0")
        start: float = param(0.1, "Share of training before it begins.", ge=0, lt=1, when="rate != 0")

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        if len(fusion.task.modalities) < 2:
            raise IncompatibleError("opm compares modalities; give it at least two of them.")

    def features(
        self, embeddings: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        p, names = self.params, list(embeddings)
        labels = labels_of(outputs["joint"])
        there = torch.stack([shown(batch, self.fusion.task.modalities, m, labels) for m in names])
        with torch.no_grad():
            said = modality_logits(self.fusion, outputs)
            if set(said) != set(names):
                raise IncompatibleError(
                    f"opm compares the logits of each modality, but in '{self.fusion.name}' they have none of "
                    "their own. Choose concat:hidden=0."
                )
            right = torch.stack([said[m].softmax(1).gather(1, labels[:, None])[:, 0] for m in names])
            rates = drop_rates((right * there).sum(1) / there.sum(1).clamp(min=1), p.rate, p.slope)
            acts = progress.draw.uniform(1, f"{self.name}:execute").to(rates.device) < p.execute
            rates = rates * acts * (progress.fraction >= p.start)
            chance = torch.stack([progress.draw.uniform(len(labels), f"{self.name}:{m}") for m in names])
            kept = chance.to(rates.device) >= rates[:, None]
            widths = torch.tensor([embeddings[m].shape[1] for m in names], dtype=rates.dtype, device=rates.device)
            left = 1 - (widths * rates).sum() / widths.sum()
        batch.extras[self.name] = (kept & there).any(0)
        return {m: embeddings[m] * (kept[i, :, None] / left) for i, m in enumerate(names)}

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return terms | {"joint": masked_mean(terms["joint"], batch.extras[self.name])}
