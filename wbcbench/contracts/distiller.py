"""What a distiller promises: a loss between one student route and one teacher, modality-blind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbcbench.contracts.needs import Needs
from wbcbench.contracts.output import Output, Progress
from wbcbench.contracts.params import DistillerParams


@dataclass(frozen=True)
class PairShapes:
    """Shapes of one (student route, teacher) pair, without the batch axis."""

    n_classes: int
    n_cells: int
    """Training cells; `Output.index` runs over all cells of the data set, `max_index` bounds it."""
    max_index: int
    student_embedding: int | None = None
    teacher_embedding: int | None = None
    student_maps: tuple[tuple[int, int, int], ...] = ()
    """(C, H, W) per stage."""
    teacher_maps: tuple[tuple[int, int, int], ...] = ()
    cell_labels: Tensor | None = None
    """[max_index + 1] int64: the label of each training cell, -1 for cells outside the training split."""
    key: str = ""
    """Names the pair within the trial (`route/teacher`): the salt of random draws."""


class Distiller(nn.Module):
    """A distillation loss. Subclass, set `name`, declare `Params` and `needs`, write `terms`.

    Parameters and buffers made in `setup` join the optimiser, the checkpoint and exact resume by
    themselves. The teacher's tensors arrive detached and in float32.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Paper and equation."""
    matches: ClassVar[Literal["logits", "embedding", "relational", "maps", "online", "optimiser"]] = "logits"
    """What it matches, for lists of methods."""
    needs: ClassVar[Needs] = Needs()
    role: ClassVar[Literal["loss", "transform", "optimiser"]] = "loss"
    """`transform`: beside another distiller of logits it adds no loss but changes the logits that the other
    one reads (`transform`). `optimiser`: it adds no loss but takes the optimiser's step (`optimise`)."""

    Params: ClassVar[type[DistillerParams]] = DistillerParams
    """Typed parameters: a nested `class Params(DistillerParams)`, each declared with `param`."""
    params: Any

    def __init__(self, params: DistillerParams) -> None:
        super().__init__()
        self.params = params

    @property
    def temperature(self) -> float:
        """The temperature at which this distiller reads logits; several teachers are averaged at it."""
        return 1.0

    def setup(self, pair: PairShapes) -> None:
        """Build adapters and buffers, from shapes alone. Called once, before training."""

    def transform(self, out: Output) -> Output:
        """For role `transform`: an output with other logits. Applied to the student and each teacher."""
        return out

    def replaced_head(self, student: Output, head: Callable[[Tensor], Tensor]) -> Tensor:
        """For `needs.head`: logits [B, K] from the student's features through the teacher's classifier."""
        raise NotImplementedError(f"{self.name} needs the head but has no `replaced_head`")

    def optimise(self, optimiser: torch.optim.Optimizer, task: Tensor, lessons: Tensor) -> None:
        """For role `optimiser`: go one step down both scalar losses, in place of backward and step.

        State per parameter belongs into `optimiser.state`, as tensors: it is then checkpointed.
        """
        raise NotImplementedError(f"{self.name} has the role of an optimiser but no `optimise`")

    @abstractmethod
    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        """Unweighted, named losses: per sample [B] where the maths allows, else a scalar."""
