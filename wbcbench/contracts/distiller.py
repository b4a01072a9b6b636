"""What a distiller promises: a loss between one student route and one teacher, independent of modalities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wbcbench.contracts import previous
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
    """A distillation loss: a subclass with a `name`, `terms`, and `Params` if it has more than a weight.

    Without `needs` it reads the logits of student and teacher. Optional base classes are for those that do
    something else in addition to a loss or instead of one: `TransformsLogits`, `TakesStep`, `ReplacesHead`.

    Parameters and buffers made in `setup` are added to the optimiser and the checkpoint automatically,
    so that training resumes exactly. The teacher's tensors arrive detached and in float32.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Paper and equation."""
    needs: ClassVar[Needs] = Needs()

    Params: ClassVar[type[DistillerParams]] = DistillerParams
    """Typed parameters: a nested `class Params(DistillerParams)`, each declared with `param`."""
    params: Any

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        previous.adopt(cls)

    def __init__(self, params: DistillerParams) -> None:
        super().__init__()
        self.params = params

    @property
    def temperature(self) -> float:
        """The temperature at which this distiller reads logits; several teachers are averaged at it."""
        return 1.0

    def setup(self, pair: PairShapes) -> None:
        """Build adapters and buffers, from shapes alone. Called once, before training."""

    @abstractmethod
    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        """Unweighted, named losses: per sample [B] where the maths allows, else a scalar."""


class TransformsLogits:
    """Base class of distillers that change the logits that another distiller reads, and then add no loss."""

    @abstractmethod
    def transform(self, out: Output) -> Output:
        """The output with new logits. Applied to the student and each teacher."""


class TakesStep:
    """Base class of distillers that add no loss but take the optimiser's step; at most one of several."""

    @abstractmethod
    def optimise(self, optimiser: torch.optim.Optimizer, task: Tensor, kd_loss: Tensor) -> None:
        """Take one step that reduces both scalar losses, in place of backward and step.

        State per parameter belongs in `optimiser.state`, as tensors: it is then checkpointed.
        """


class ReplacesHead:
    """Base class of distillers whose route predicts with the teacher's classifier."""

    @abstractmethod
    def replaced_head(self, student: Output, head: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits [B, K] from the student's features through the teacher's classifier."""


previous.keep_readable(Distiller)
