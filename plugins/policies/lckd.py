"""Learnable cross-modal distillation: the modality that is best on validation cells teaches the others."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import Embeddings, index_of, masked_mean, shown

from wbcbench.contracts import Batch, Draw, Fusion, Outputs, Parameters, Policy, PolicyTraits, Progress, param
from wbcbench.errors import IncompatibleError


class LCKD(Policy):
    """weight * sum over students m of mean_d |stop(h_t) - h_m|, h_t the embedding of the elected teacher.

    After each epoch, the modality whose route has the least validation loss is elected; until then nothing is
    taught. The authors elect one modality per kind of tissue by its Dice score, which for exclusive classes leaves
    one. Both modalities must show the same cell, and their embeddings be equally wide. With a network per modality
    (late_prob), or one that they share (shared_trunk, as in the paper).
    """

    name = "lckd"
    source = "Wang, Ma, Zhang et al., MICCAI 2023, arXiv 2310.01035, and the authors' code (LCKD)"
    traits = PolicyTraits(arity=(2, None), needs_routes="modality", wants=("own_embedding", "trained_logits"))

    class Params(Parameters):
        weight: float = param(0.1, "Factor on the loss.", ge=0, search=(0.01, 1.0), log=True)

    params: Params
    teacher: Tensor
    elected: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.modalities = fusion.task.modalities
        self.embeddings = Embeddings(fusion, self.name, distinct=True)
        widths = self.embeddings.widths
        if len(set(widths.values())) > 1:
            raise IncompatibleError(
                "lckd compares embeddings, but they are "
                + ", ".join(f"{w} wide for {m}" for m, w in widths.items())
                + ". Give all modalities the same backbone."
            )
        if not set(self.modalities) <= set(fusion.routes):
            raise IncompatibleError(
                f"lckd elects a modality by the loss of its route, but '{fusion.name}' has none. Choose a fusion "
                "with a head per modality, such as late_prob."
            )
        self.register_buffer("teacher", torch.zeros((), dtype=torch.int64))
        self.register_buffer("elected", torch.zeros((), dtype=torch.bool))

    def images(self, batch: Batch, draw: Draw) -> Batch:
        self.embeddings.reset()
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        found = [self.embeddings(outputs, batch)[m] for m in self.modalities]
        h = torch.stack([o.embedding for o in found if o.embedding is not None])  # [M, R, D]
        index = torch.stack([index_of(o) for o in found])
        there = torch.stack([shown(batch, self.modalities, m, index[0]) for m in self.modalities])
        chosen = self.teacher.view(1)
        taught = h.index_select(0, chosen).detach()
        usable = there & there.index_select(0, chosen) & (index == index.index_select(0, chosen)) & self.elected
        apart = (h - taught).abs().mean(2)
        added = {
            f"{self.name}.{m}": self.params.weight * masked_mean(apart[i], usable[i] & (self.teacher != i))
            for i, m in enumerate(self.modalities)
        }
        return terms | added

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        best = min(range(len(self.modalities)), key=lambda i: losses[self.modalities[i]])
        self.teacher.fill_(best)
        self.elected.fill_(True)
