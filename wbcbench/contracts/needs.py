"""What distillers and policies need, readable without building a model (imports no torch)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Tap = Literal["logits", "embedding", "maps"]
TaughtBy = Literal["teacher", "self", "peers", "average"]

Stage = Literal["rows", "images", "losses", "weights", "gradients"]
POLICY_ORDER: tuple[Stage, ...] = ("rows", "images", "losses", "weights", "gradients")
"""In which order policies act, whatever the order in which they are given; within a stage, by name.

`rows`: which cells and modalities the rows show; `images`: what the images look like, with the losses that follow
from it; `losses`: losses added or put in place of others; `weights`: factors on losses; `gradients`: what becomes
of them.
"""

Offer = Literal["logits", "embedding", "own_embedding", "own_parameters", "meeting_losses"]
"""What a policy may find in a fusion.

`logits`: each modality has logits, of a route or by `Fusion.modality_logits`. `embedding`: each modality has an
embedding, of its route or its own backbone; `own_embedding`: and no two have the same. `own_parameters`: each has
parameters that nothing else uses (an `nn.ModuleDict` by modality, or `head_params`). `meeting_losses`: the losses
of several routes reach the same parameters.
"""
Want = Offer | Literal["incomplete", "trained_logits"]
"""`incomplete`: cells without some modality are taken. `trained_logits`: labels train the routes' logits."""


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
