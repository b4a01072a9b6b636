"""What a corruption promises: damage to the images or numbers of one modality, in five severities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from wbcbench.contracts.params import Parameters


@dataclass(frozen=True)
class CellDraws:
    """Random numbers of the cells of one batch: a function of seed, purpose and cell, so that a cell is damaged in
    the same way whatever the batch, the network and the order of calls."""

    numbers: Callable[[str, Tensor], Tensor]
    """purpose, counters int64 of any shape -> numbers in [0, 1) of that shape."""
    cells: Tensor
    """[B] int64 ids."""
    imputed: Tensor | None = None
    """[F], what a missing number of a vector is replaced with; None: of images."""

    def uniform(self, purpose: str, count: int = 1) -> Tensor:
        """[B, count] float32 in [0, 1)."""
        return self.numbers(purpose, self.cells[:, None] * count + torch.arange(count, device=self.cells.device))

    def normal(self, purpose: str, count: int = 1) -> Tensor:
        """[B, count] float32, standard Gaussian."""
        return torch.erfinv(2 * self.uniform(purpose, count).clamp(1e-6, 1 - 1e-6) - 1) * 2**0.5

    def shared(self, purpose: str, count: int = 1) -> Tensor:
        """[count] float32 in [0, 1), equal for all cells: a property of the instrument, say."""
        return self.numbers(purpose, torch.arange(count, device=self.cells.device))


class Corruption(ABC):
    """Changes what one modality of trained networks' test cells shows; the other modalities stay as they are.

    Subclass, set `name`, declare what it `reads`, implement `corrupt`.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    reads: ClassVar[Literal["images", "vectors", "both"]] = "images"
    """The kind of modality that it can change."""
    strengths: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """The five severities, from slight to severe; what they mean is up to `corrupt`. At 0 it changes nothing, or
    less than at the first."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, params: Parameters | None = None) -> None:
        self.params = params if params is not None else self.Params()

    @abstractmethod
    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        """The corrupted copy, of the same shape and type.

        Args:
            x: images [B, C, S, S] or vectors [B, F], normalised: mean 0 and sd 1 over the training cells.
            strength: one of `strengths`.
            draws: the only source of random numbers.
        """
