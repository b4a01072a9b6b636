"""Recruiting teachers: a learned gate selects the teachers for each cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import (
    Distiller,
    Output,
    PairShapes,
    Parameters,
    Progress,
    Routing,
    each_teacher,
    param,
    weighted,
)


def keep_top(scores: Tensor, top: int) -> Tensor:
    """Softmax over the `top` highest scores of each row, zero elsewhere. scores: [B, K] -> [B, K]."""
    kept = scores.topk(min(top, scores.shape[1]), dim=1).indices
    mask = torch.full_like(scores, float("-inf")).scatter(1, kept, 0.0)
    return (scores + mask).softmax(1)


def mixture_loss(gate: Tensor, teachers: Tensor, labels: Tensor) -> Tensor:
    """-log of the gated mixture's probability of the label, [B]: what the gate is trained on.

    gate: [B, K], rows sum to 1; teachers: logits [K, B, C]; labels: [B].
    """
    own = teachers.log_softmax(-1).gather(2, labels.expand(len(teachers), -1)[..., None])[..., 0].exp()  # [K, B]
    return -torch.log((gate.T * own).sum(0).clamp_min(1e-12))


def balance_loss(gate: Tensor) -> Tensor:
    """K sum_k (mean_i g_ik)^2 - 1, zero where all teachers are used equally. gate: [B, K] -> scalar."""
    return gate.shape[1] * gate.mean(0).pow(2).sum() - 1


class Recruit(Routing):
    """Every route is taught by all teachers, weighted per cell by a learned gate over their predictions.

    The gate (a linear layer on the teachers' log-probabilities) learns to make the gated mixture predict the
    label, not to lower the student's loss, so that it cannot favour the teacher that is easiest to imitate. `top`
    limits the teachers per cell, `balance` keeps the gate from ignoring some of them: the top-k gate with
    load balancing of MST-Distill's last stage, without its mask networks.
    """

    name = "recruit"
    source = "gate with load balancing: Li et al. (MST-Distill), ACM MM 2025; trained on labels: this project"
    pairing = "all"
    min_teachers = 2
    trainable = True

    class Params(Parameters):
        top: int = param(8, "Teachers used per cell.", ge=1, le=64, search=[1, 2, 8])
        balance: float = param(0.01, "Weight of equal use of the teachers.", ge=0, search=(0.001, 1.0), log=True)

    params: Params

    def setup(self, pairs: Sequence[PairShapes]) -> None:
        self.gate = nn.Linear(len(pairs) * pairs[0].n_classes, len(pairs))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        assert student.labels is not None
        logits = torch.stack([t.logits for t in teachers]).detach()
        asked = F.log_softmax(logits, -1).clamp_min(-20).permute(1, 0, 2).flatten(1)
        gate = keep_top(self.gate(asked), self.params.top)
        terms = weighted(each_teacher(distillers, student, teachers, progress), gate.detach().T)
        terms["gate"] = mixture_loss(gate, logits, student.labels)
        terms["balance"] = self.params.balance * balance_loss(gate)
        return terms
