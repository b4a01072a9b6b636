"""Modality dropout: in training, each cell loses some of its modalities at random."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from wbcbench.contracts import Batch, Draw, Fusion, Parameters, Policy, PolicyTraits, over_rows, param
from wbcbench.errors import IncompatibleError


def drop_modalities(present: Tensor, chance: Tensor, rates: Tensor, keep: Tensor) -> Tensor:
    """Which modalities stay: present where `chance` is at least the rate; at least one of those present.

    Args:
        present: [R, M] bool, which modalities are present.
        chance: [R, M] in [0, 1), independent.
        rates: [M] in [0, 1], probability of being dropped.
        keep: [R, M] in [0, 1), independent; a row that would lose all keeps the one with the largest.

    Returns:
        [R, M] bool, a subset of `present`; empty only where `present` is. With everything there, modality m
        is absent with probability r_m - prod_j r_j / M.

    Source: Neverova et al., ModDrop, TPAMI 2016, arXiv 1501.00102, section 3.3; never all, as is usual since.
    """
    left = present & (chance >= rates)
    best = torch.where(present, keep, -1.0).argmax(1, keepdim=True)
    rescue = torch.zeros_like(left).scatter_(1, best, True) & present
    return torch.where(left.any(1, keepdim=True), left, rescue)


class ModalityDropout(Policy):
    """Each modality of each row is dropped at random: its image becomes the training mean, it counts as absent.

    A route that reads only a dropped modality learns nothing from that row, neither from labels nor from teachers,
    as with any cell that lacks the modality.
    """

    name = "modality_dropout"
    aliases = ("moddrop",)
    source = "Neverova et al., TPAMI 2016, arXiv 1501.00102"
    traits = PolicyTraits(acts_on="rows", wants=("incomplete",))

    class Params(Parameters):
        rate: float = param(
            0.25, "Probability of dropping a modality.", ge=0, le=1, search=(0.05, 0.6), when="modalities > 1"
        )
        rates: dict[str, Annotated[float, Ge(0), Le(1)]] = param(
            {},
            "Modality -> its own probability, instead of `rate`.",
            when="modalities > 1",
        )

    params: Params
    rates: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        unknown = set(self.params.rates) - set(fusion.task.modalities)
        if unknown:
            raise IncompatibleError(
                f"modality_dropout has rates for {', '.join(sorted(unknown))}, but the modalities are "
                f"{', '.join(fusion.task.modalities)}. Correct policy.rates."
            )
        if set(self.params.rates) == set(fusion.task.modalities) and self.params.rate != type(self.params)().rate:
            raise IncompatibleError(
                f"modality_dropout has a rate for each of {', '.join(fusion.task.modalities)}, so that rate = "
                f"{self.params.rate:g} has no effect. Leave policy.rate out."
            )
        if fusion.traits.missing == "refuse":
            raise IncompatibleError(
                f"modality_dropout shows cells without some modality, which '{fusion.name}' refuses. Choose a "
                "fusion that takes incomplete cells (`wbcbench list fusions`)."
            )
        rates = [self.params.rates.get(m, self.params.rate) for m in fusion.task.modalities]
        self.register_buffer("rates", torch.tensor(rates), persistent=False)

    def images(self, batch: Batch, draw: Draw) -> Batch:
        modalities = self.fusion.task.modalities
        first = next(iter(batch.images.values()))
        there = torch.ones(len(first), len(modalities), dtype=torch.bool, device=first.device)
        present = there if batch.present is None else batch.present
        chance, keep = (
            torch.stack([draw.uniform(len(first), f"modality_dropout:{what}:{m}") for m in modalities], 1)
            for what in ("drop", "keep")
        )
        batch.present = drop_modalities(present, chance, self.rates, keep)
        gone = present & ~batch.present
        batch.images = {
            m: torch.where(over_rows(gone[:, modalities.index(m)], x), 0.0, x) for m, x in batch.images.items()
        }
        return batch
