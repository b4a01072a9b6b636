"""ReconBoost: modalities are boosted in turn, each on what the others leave unexplained (Hua et al. 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of, masked_mean, modality_routes, same_cell, shown

from wbcbench.contracts import (
    Batch,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    StepsInTurn,
    param,
)


def residual_weight(others: Tensor, labels: Tensor, strength: float) -> Tensor:
    """1 - strength * p(y), p the softmax of the others' summed logits: small where they are already right.

    Args:
        others: [R, K], sum of the other modalities' logits; no gradient is expected to flow into them.
        labels: [R].
        strength: in [0, 1]; 1 is the residual itself.

    Returns:
        [R] in [1 - strength, 1].

    Source: the code published with arXiv 2405.09321, divided by its `weight1`, so that strength is weight2 /
    weight1.
    """
    return 1 - strength * others.softmax(1).gather(1, labels[:, None])[:, 0]


class ReconBoost(StepsInTurn, Policy):
    """For each batch one step per modality on (1 - s p_others(y)) CE(z_m), then one of all on CE(sum_m z_m).

    So each modality fits what the others, as the steps before left them, do not explain. The authors alternate
    after some epochs instead of within a batch, and their agreement term has no gradient in their code and is left
    out. It predicts as the fusion does: late_logit is the sum of logits that it trains.
    """

    name = "reconboost"
    source = "Hua, Xu, Bao, Yang, Huang, ICML 2024, arXiv 2405.09321; the authors' code"
    traits = PolicyTraits(needs_routes="modality", wants=("trained_logits", "own_parameters"), reads_labels=True)

    class Params(Parameters):
        strength: float = param(
            0.2,
            "s: how much less a cell counts that the others explain; 0: not at all.",
            ge=0,
            le=1,
            search=(0.0, 1.0),
        )
        rectify: float = param(
            1.0, "Factor on the loss of the sum, the step of all.", gt=0, le=10, search=(0.1, 2.0), log=True
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.routes = modality_routes(fusion, self.name)

    @property
    def turns(self) -> tuple[str, ...]:
        return (*self.routes, "all")

    def of_turn(self, turn: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        owners = {name: name.rpartition(".")[2] for name in losses}
        if turn == "all":
            return {name: loss for name, loss in losses.items() if owners[name] not in self.routes}
        return {name: loss for name, loss in losses.items() if owners[name] == turn}

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        modalities, found = self.fusion.task.modalities, dict(terms)
        labels = labels_of(outputs[self.routes[0]])
        there = torch.stack([shown(batch, modalities, m, labels) for m in self.routes])
        logits = torch.stack([outputs[m].logits for m in self.routes]) * there[..., None]
        together = same_cell(outputs, self.routes)
        for i, m in enumerate(self.routes):
            others = (logits.sum(0) - logits[i]).detach()
            weight = residual_weight(others, labels_of(outputs[m]), self.params.strength)
            usable = together & (there.sum(0) - there[i].to(torch.int64) > 0)
            found[m] = terms[m] * torch.where(usable, weight, 1.0)
        loss = F.cross_entropy(logits.sum(0), labels, reduction="none") * batch.weights_of(labels)
        return found | {self.name: self.params.rectify * masked_mean(loss, together & there.any(0))}
