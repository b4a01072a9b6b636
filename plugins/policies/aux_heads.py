"""Auxiliary heads: every modality's embedding must predict the class by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.policies._modalities import Embeddings, labels_of, masked_mean, shown

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


class AuxHeads(Policy):
    """L = L_fusion + weight * sum_m CE(A_m h_m, y), A_m a linear head that is discarded after training.

    h_m [R, D_m] is the embedding of the modality's route, or of its own backbone where the fusion has none.
    Labels follow the rows that the modality was shown; absent modalities are ignored. A fusion whose
    modalities already have heads gets a second one each, which only adds weight; on one with a joint route it
    keeps the weaker modality learning. Where one trunk reads all, the routes' common embedding is used.
    Parameters, in training only: sum_m (D_m + 1) K.
    """

    name = "aux_heads"
    source = "Du et al., ICML 2023, arXiv 2305.01233 (uni-modal targets); AutoGluon's aux_weight"
    traits = PolicyTraits(wants=("embedding",), offers=("meeting_losses",), reads_labels=True)

    class Params(Parameters):
        weight: float = param(1.0, "Factor on the sum of the heads' losses.", ge=0, search=(0.05, 2.0), log=True)

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.embeddings = Embeddings(fusion, self.name)
        classes = fusion.task.n_classes
        self.heads = nn.ModuleDict({m: nn.Linear(d, classes) for m, d in self.embeddings.widths.items()})

    def images(self, batch: Batch, draw: Draw) -> Batch:
        self.embeddings.reset()
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        added = {}
        for m, out in self.embeddings(outputs, batch).items():
            assert out.embedding is not None
            labels, smoothing = labels_of(out), self.fusion.label_smoothing
            loss = F.cross_entropy(
                self.heads[m](out.embedding), labels, reduction="none", label_smoothing=smoothing
            )
            loss = loss * batch.weights_of(labels) * self.params.weight
            added[f"{self.name}.{m}"] = masked_mean(loss, shown(batch, self.fusion.task.modalities, m, labels))
        return terms | added
