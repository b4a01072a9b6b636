"""What a distiller needs, readable without building a model (imports no torch)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Tap = Literal["logits", "embedding", "maps"]


@dataclass(frozen=True)
class Needs:
    """Declared as a class attribute of a distiller; the core derives everything else from it.

    A teacher can be *replayed* (its outputs looked up instead of computed) exactly when it is frozen
    and only its logits and embeddings are read.
    """

    student: tuple[Tap, ...] = ("logits",)
    teacher: tuple[Tap, ...] = ("logits",)
    labels: bool = False
    """`Output.labels` is read."""
    index: bool = False
    """`Output.index` (stable cell ids) is read: memory banks, histories."""
    schedule: bool = False
    """`progress` changes the loss (warm-up, annealing)."""
    teacher_head: bool = False
    """The teacher's classifier is called: `Output.head`."""
    teacher_trainable: bool = False
    views: int = 1
    """Augmented views of a cell per step."""
    min_classes: int = 2
    min_batch: int = 1
    trainable: bool = False
    """The distiller has parameters of its own (adapters, temperatures)."""

    @property
    def replayable(self) -> bool:
        """Whether a frozen teacher's stored outputs are enough."""
        live = "maps" in self.teacher or self.teacher_head or self.teacher_trainable or self.views > 1
        return not live

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with `replayable`."""
        return asdict(self) | {"replayable": self.replayable}
