"""Calibrated multimodal learning: confidence must not rise when a modality is removed (Ma et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import masked_mean, same_cell

from wbcbench.contracts import (
    Batch,
    ForwardsAgain,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    over_rows,
    param,
)
from wbcbench.contracts.policy import Run
from wbcbench.errors import IncompatibleError


def confidence_rise(full: Tensor, less: Tensor) -> Tensor:
    """max(0, conf(less) - conf(full)), conf = largest class probability.

    Args:
        full: [R, K] probabilities from all modalities.
        less: [R, K] probabilities after one was removed.

    Returns:
        [R] in [0, 1 - 1/K]. Source: arXiv 2306.01265.
    """
    return (less.amax(1) - full.amax(1)).relu()


class CML(ForwardsAgain, Policy):
    """weight * mean of the rise in confidence when one modality, drawn per row, is removed.

    Confidence is that of the fusion's own prediction, so any fusion works; it needs a second forward pass, in
    which the removed image is the training mean and counts as absent. The paper removes modalities one after
    another down to one; here one pair of sets is drawn per row and step. Rows with a single modality, and rows
    that show different cells, are ignored.
    """

    name = "cml"
    source = "Ma et al., ICML 2023, arXiv 2306.01265"
    traits = PolicyTraits(arity=(2, None), wants=("incomplete", "trained_logits"))

    class Params(Parameters):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.05, 10.0), log=True)

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        if len(fusion.task.modalities) < 2 or fusion.traits.missing == "refuse":
            raise IncompatibleError(
                f"cml removes modalities, but '{fusion.name}' has one only or refuses incomplete cells. Choose "
                "another fusion."
            )

    def after_forward(self, run: Run, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        modalities = self.fusion.task.modalities
        first = next(iter(batch.images.values()))
        there = torch.ones(len(first), len(modalities), dtype=torch.bool, device=first.device)
        present = there if batch.present is None else batch.present
        chance = [progress.draw.uniform(len(first), f"cml:{m}").to(first.device) for m in modalities]
        gone = torch.where(present, torch.stack(chance, 1), -1.0).argmax(1)
        less = present.scatter(1, gone[:, None], False)
        images = {
            m: torch.where(over_rows(gone == i, batch.images[m]), 0.0, batch.images[m])
            for i, m in enumerate(modalities)
        }
        batch.extras[self.name] = run(images, less), less, less.any(1)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        others, less, usable = batch.extras[self.name]
        full = self.fusion.predict(outputs, batch.present)
        rise = confidence_rise(full, self.fusion.predict(others, less))
        if not rise.requires_grad and torch.is_grad_enabled():
            raise IncompatibleError(
                f"cml follows the gradient of the prediction, but that of '{self.fusion.name}' has none. Choose a "
                "fusion that averages probabilities, such as late."
            )
        return terms | {
            self.name: masked_mean(rise, usable & same_cell(outputs, tuple(outputs))) * self.params.weight
        }
