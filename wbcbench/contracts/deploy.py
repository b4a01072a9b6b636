"""What inference runs of a fusion, also where it is only ever given some of the modalities."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wbcbench.contracts.fusion import Fusion

T = TypeVar("T", bound=nn.Module)


class PerModality(nn.ModuleDict):
    """Modules of one modality each (backbones, heads), which nobody needs where that modality is never there.

    `Fusion.deploy` leaves out those of absent modalities. So a fusion that keeps modules here loops over them, or
    asks `m in self.backbones`, and takes zeros for what an absent modality would have said.
    """

    def __init__(self, modules: Mapping[str, nn.Module], owners: Mapping[str, str] | None = None) -> None:
        """`owners`: key -> modality, where the keys are not the modalities themselves."""
        super().__init__(modules)
        self.owners = {key: key for key in modules} if owners is None else dict(owners)


def without(module: T, absent: frozenset[str]) -> T:
    """The module without entries of `PerModality` that belong to absent modalities; parameters are shared."""
    if not any(isinstance(m, PerModality) for m in module.modules()):
        return module
    twin = copy.copy(module)
    gone = {k for k, m in module.owners.items() if m in absent} if isinstance(module, PerModality) else set()
    twin._modules = {
        name: None if child is None else without(child, absent)
        for name, child in module._modules.items()
        if name not in gone
    }
    return twin


class Deployed(nn.Module):
    """A fusion as inference runs it: images in, probabilities out."""

    def __init__(self, fusion: Fusion, present: tuple[str, ...] | None = None) -> None:
        """`present`: the modalities whose images are given, some; None: all."""
        super().__init__()
        self.fusion = fusion
        self.present = present

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        if self.present is None:
            return self.fusion.predict(self.fusion(images))
        task, some = self.fusion.task, images[self.present[0]]
        rows, side = some.shape[0], task.image_size
        here = torch.tensor([m in self.present for m in task.modalities], device=some.device).expand(rows, -1)
        # The training mean is zero after normalisation; a fusion that imputes otherwise does so by itself.
        seen = {
            m: images[m] if m in self.present else some.new_zeros(rows, c, side, side)
            for m, c in task.channels.items()
        }
        return self.fusion.predict(self.fusion(seen, here), here)


__all__ = ["Deployed", "PerModality", "without"]
