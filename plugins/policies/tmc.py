"""Trusted multi-view classification: evidence per modality, combined by Dempster's rule (Han et al. 2021)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from wbcbench_plugins.policies._evidence import trusted_terms
from wbcbench_plugins.policies._modalities import modality_routes

from wbcbench.contracts import Batch, Fusion, Outputs, Parameters, Policy, PolicyTraits, Progress, param


class TMC(Policy):
    """L = sum_m L_dir(e_m) + L_dir(combination), e = softplus(z), KL part rising over the first epochs.

    Replaces the cross-entropy of every modality's route (label smoothing does not apply). The policy does not
    change the fusion's prediction: use it with dempster_shafer to predict as it trains.

    `annealing` counts epochs, as the authors' code does (50 of 500): a training of n < 50 epochs ends with n / 50
    of the KL part. In ten epochs on synthetic cells the authors' share (all of it after a tenth of training) cost
    .08 of macro-F1 and was no better calibrated.
    """

    name = "tmc"
    source = "Han et al., ICLR 2021, arXiv 2102.02051"
    traits = PolicyTraits(
        needs_routes="modality", wants=("trained_logits",), reads_labels=True, replaces_losses="modality"
    )

    class Params(Parameters):
        annealing: int = param(50, "Epochs until the KL part counts in full; 0: from the start.", ge=0, le=10000)
        evidence: Literal["softplus", "relu", "exp"] = param(
            "softplus", "How logits become evidence.", search=["softplus", "relu", "exp"]
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.views = modality_routes(fusion, self.name)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        p = self.params
        annealing = min(1.0, progress.epoch / p.annealing) if p.annealing else 1.0
        return trusted_terms(terms, outputs, batch, self.fusion, self.views, self.name, p.evidence, annealing)
