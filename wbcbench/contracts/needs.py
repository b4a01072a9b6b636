"""What a distiller needs, readable without building a model (imports no torch)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Tap = Literal["logits", "embedding", "maps"]
TaughtBy = Literal["teacher", "self", "peers", "average"]


@dataclass(frozen=True)
class Needs:
    """Declared as a class attribute of a distiller; the core derives everything else from it.

    A frozen teacher is *replayed*: its outputs are looked up instead of computed. Logits and embeddings
    always are; stage maps only where they fit a budget, so a distiller of maps may meet a live teacher.
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
    taught_by: TaughtBy = "teacher"
    """Where `teacher` of `terms` comes from. `teacher`: a trained network of its own. `self`: the
    student's own output, detached (no teacher is trained). `peers`: each other route of the student that
    was shown the same cell, detached. `average`: a moving average of the student's weights, on the same
    images."""
    draws: bool = False
    """Random numbers are used (`progress.draw`), so the value depends on the step."""
    head: bool = False
    """The route's prediction is replaced: the distiller has `replaced_head`."""
    optimiser: Literal["", "sgd"] = ""
    """The only optimiser that it works with."""
    min_classes: int = 2
    min_batch: int = 1
    trainable: bool = False
    """The distiller has parameters of its own (adapters, temperatures)."""

    @property
    def replayable(self) -> bool:
        """Whether a frozen teacher's stored outputs are always enough."""
        return self.taught_by == "teacher" and "maps" not in self.teacher

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with `replayable`."""
        return asdict(self) | {"replayable": self.replayable}
