"""What a fusion that cannot leave a modality out is shown in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wbcbench.contracts import Fusion, Task
from wbcbench.data.resident import ResidentCells
from wbcbench.spec.imputers import MEAN

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Imputer(nn.Module):
    """Fills in absent images before the fusion that owns this module sees them.

    `zero` shows black pixels; `token` an image per modality that is learned with the network, from the training
    cells that lack the modality (the data set's own, or those of the policy `modality_dropout`). A token starts
    at the training mean; together they add sum_m C_m S^2 parameters.
    """

    def __init__(self, task: Task, how: str) -> None:
        """`how`: `zero` or `token`."""
        super().__init__()
        self.modalities = task.modalities
        for m, channels in task.channels.items():
            if how == "token":
                fill = nn.Parameter(torch.zeros(channels, task.image_size, task.image_size))
                self.register_parameter(f"token_{m}", fill)
            else:
                self.register_buffer(f"black_{m}", torch.zeros(channels, 1, 1))
        self.prefix = "token" if how == "token" else "black"

    def measure(self, cells: ResidentCells) -> None:
        """Find out how dark a black pixel is after normalisation: -mean / sd of each channel."""
        if self.prefix == "black":
            for m in self.modalities:
                modality = cells.modalities[m]
                self.fill(m).copy_((-modality.mean / modality.std)[:, None, None])

    def fill(self, modality: str) -> Tensor:
        """[C, S, S] or [C, 1, 1]: what stands for the modality."""
        found: Tensor = getattr(self, f"{self.prefix}_{modality}")
        return found

    def forward(self, images: dict[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
        """The images [B, C, S, S] with the absent ones replaced; `present` [B, M] bool or None."""
        if present is None:
            return images
        here = {m: present[:, i, None, None, None] for i, m in enumerate(self.modalities)}
        return {m: torch.where(here[m], x, self.fill(m)) for m, x in images.items()}


def impute(fusion: Fusion, how: str) -> Fusion:
    """Give the fusion an imputer (`fusion.imputer`) that acts before its forward pass; `mean` needs none."""
    if how == MEAN:
        return fusion
    fusion.imputer = Imputer(fusion.task, how)
    fusion.register_forward_pre_hook(_fill_in, with_kwargs=True)
    return fusion


def _fill_in(fusion: Fusion, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    # Reached through the module, so that a copied fusion uses the copy's own imputer.
    images, *rest = args if args else (kwargs.pop("images"),)
    present = rest[0] if rest else kwargs.get("present")
    imputer = fusion.imputer
    assert isinstance(imputer, Imputer)
    return (imputer(images, present), *rest), kwargs
