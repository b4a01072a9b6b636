"""Quality-aware multimodal fusion: energies as weights, ranked by hardness (Zhang et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import (
    index_of,
    labels_of,
    masked_mean,
    modality_routes,
    same_cell,
    shown,
)

from wbcbench.contracts import (
    Batch,
    Fusion,
    Outputs,
    Parameters,
    PerCell,
    Policy,
    PolicyTraits,
    Progress,
    param,
)


def energy_weighted(logits: Tensor, there: Tensor, scale: float) -> Tensor:
    """z = sum_m w_m z_m with w_m = scale * logsumexp(z_m), 0 where a modality is absent.

    Args:
        logits: [M, R, K].
        there: [M, R] bool.
        scale: > 0.

    Returns:
        [R, K]; the weights are constants for the gradient, so that only the ranking loss trains them. Source:
        arXiv 2306.02050, equation 11, and the authors' code (scale 0.1), which detaches them for image and text
        but not for RGB-D.
    """
    weights = torch.where(there, scale * logits.detach().logsumexp(2), 0.0)
    return (weights[..., None] * logits).sum(0)


def ranking_loss(confidence: Tensor, hardness: Tensor, usable: Tensor) -> Tensor:
    """max(0, sign(h_i - h_j) (c_i - c_j) + |h_i - h_j|), j the row after i: the harder cell must be less sure.

    Args:
        confidence: [R].
        hardness: [R] in [0, 1], running mean loss; no gradient is expected to flow into it.
        usable: [R] bool; a pair counts where both are.

    Returns:
        [R], >= 0; 0 where both are equally hard.

    Source: arXiv 2306.02050, equation 14, after Moon et al., ICML 2020, arXiv 2007.01458. The authors' code adds
    the margin with the opposite sign, so that the loss is zero until the order is wrong by the margin.
    """
    gap = hardness - hardness.roll(-1)
    wrong = gap.sign() * (confidence - confidence.roll(-1)) + gap.abs()
    return torch.where(usable & usable.roll(-1) & (gap != 0), wrong.relu(), 0.0)


class QMF(PerCell, Policy):
    """L = sum_m CE(z_m) + CE(sum_m w_m z_m) + rank * sum_m ranking(w_m, hardness of the cell in m).

    Hardness is each cell's mean loss over all the times it was shown in that modality, by cell id, scaled to
    [0, 1] over the cells seen so far. The policy does not change the fusion's prediction: use it with a fusion
    that weights by energy, such as late_confidence, to predict as it trains.
    """

    name = "qmf"
    source = "Zhang et al., ICML 2023, arXiv 2306.02050"
    traits = PolicyTraits(needs_routes="modality", wants=("trained_logits",), reads_labels=True)

    class Params(Parameters):
        scale: float = param(0.1, "Factor from energy to weight.", gt=0, le=10)
        rank: float = param(1.0, "Factor on the ranking loss.", ge=0, search=(0.01, 2.0), log=True)

    params: Params
    sums: Tensor
    counts: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.routes = modality_routes(fusion, self.name)

    def setup_cells(self, size: int) -> None:
        self.register_buffer("sums", torch.zeros(len(self.routes), size))
        self.register_buffer("counts", torch.zeros(len(self.routes), size))

    def hardness(self, i: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """[R] in [0, 1] of the cells `index` [R] in route i, and [R] bool whether they have been seen."""
        seen = self.counts[i] > 0
        mean = self.sums[i] / self.counts[i].clamp(min=1)
        low = torch.where(seen, mean, torch.inf).amin()
        high = torch.where(seen, mean, -torch.inf).amax()
        known = seen[index]
        scaled = (mean[index] - low) / (high - low).clamp(min=1e-8)
        return torch.where(known, scaled, 0.0), known

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        modalities = self.fusion.task.modalities
        found, there = dict(terms), []
        for i, m in enumerate(self.routes):
            out = outputs[m]
            labels, index = labels_of(out), index_of(out)
            there.append(shown(batch, modalities, m, labels))
            hard, known = self.hardness(i, index)
            confidence = self.params.scale * out.logits.logsumexp(1)
            found[f"{self.name}.rank.{m}"] = self.params.rank * ranking_loss(confidence, hard, known & there[-1])
            with torch.no_grad():
                loss = F.cross_entropy(out.logits, labels, reduction="none")
                shows = there[-1].to(loss.dtype)
                self.sums[i].index_put_((index,), loss * shows, accumulate=True)
                self.counts[i].index_put_((index,), shows, accumulate=True)
        logits = torch.stack([outputs[m].logits for m in self.routes])
        fused = energy_weighted(logits, torch.stack(there), self.params.scale)
        labels = labels_of(outputs[self.routes[0]])
        loss = F.cross_entropy(fused, labels, reduction="none") * batch.weights_of(labels)
        usable = same_cell(outputs, self.routes) & torch.stack(there).any(0)
        return found | {f"{self.name}.fused": masked_mean(loss, usable)}
