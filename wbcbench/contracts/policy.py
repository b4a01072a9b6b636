"""What a training policy promises: a change to training that works with any fusion."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from wbcbench.contracts import previous
from wbcbench.contracts.fusion import Fusion
from wbcbench.contracts.needs import PolicyTraits
from wbcbench.contracts.output import Batch, Draw, Evaluated, Outputs, Progress
from wbcbench.contracts.params import Parameters

Run = Callable[[dict[str, Tensor], Tensor | None], Outputs]
"""images, present -> outputs with labels, in the precision of the step."""


class Policy(nn.Module):
    """Hooks around a fusion's training step. Every hook has a default that does nothing.

    A subclass has a `name`, at least one hook, and `Params` if it has parameters. `traits` declares what differs
    from the defaults; base classes have the hooks that few policies need: `ForwardsAgain`, `ChangesFeatures`,
    `ChangesGradients`, `DoesBackward`, `StepsInTurn`,
    `ReadsValidation`, `PerCell`.

    Several policies are applied hook by hook, in the order of what they act on (`acts_on`) and then of their
    names, always after the fusion's own `assemble` and `task_terms`: a later policy sees the result of an
    earlier one. The planner sorts them, so that the order in which they are given is not part of a method. No hook
    runs at evaluation, so no policy changes what a given network predicts. Parameters and buffers are added to the
    optimiser and the checkpoint automatically; a policy that needs the fusion later keeps it as `self.fusion`,
    which `setup` stores without making it a submodule.

    Within a step: assemble, images, (forward), features, after_forward, task_terms, backward, after_backward.
    Hooks of a step must not read anything back from the device.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    traits: ClassVar[PolicyTraits] = PolicyTraits()

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        previous.adopt(cls)

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.params = params
        self._fusion: list[Fusion] = []

    @property
    def fusion(self) -> Fusion:
        """The fusion that `setup` was given; its parameters are not this module's."""
        return self._fusion[0]

    def setup(self, fusion: Fusion) -> None:
        """Inspect the fusion, build heads and buffers. Called once, before training.

        Overriding methods call `super().setup(fusion)` first.

        Raises:
            IncompatibleError: the fusion lacks what this policy works on.
        """
        self._fusion = [fusion]

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        """Change which cells and modalities the batch shows, after the fusion's own `assemble`."""
        return batch

    def images(self, batch: Batch, draw: Draw) -> Batch:
        """Change what the rows show: `batch.images` (replace, never in place) and `batch.present` [R, M]."""
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Re-weight, add or drop task terms (each [R], or a scalar).

        The core multiplies a term that is named after a route by the class weights of the route's labels, and
        no other; a policy that adds a term of labels under another name uses `batch.weights_of`. Rows in which a
        route was shown nothing are zero in the given term, and its mean is over the others; a policy that
        recomputes a term leaves them out by `masked_mean(term, out.shown)`.
        """
        return terms

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        """Called after each epoch. `losses`: route -> mean cross-entropy over the validation cells."""


class ForwardsAgain:
    """Base class of policies that run the fusion more than once a step: `class CML(ForwardsAgain, Policy)`."""

    @abstractmethod
    def after_forward(self, run: Run, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        """Run the fusion again with `run`, and store the result in `batch.extras[self.name]`."""


class ChangesFeatures:
    """Base class of policies that change a modality's embedding between its own network and what reads it.

    The fusion must offer `features`; such a policy declares it as one of its `wants`.
    """

    @abstractmethod
    def features(
        self, embeddings: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """The embeddings that the head reads; what is left out stays as it is. Called in training, before any
        loss.

        Args:
            embeddings: modality -> [R, D_m], of the modality's network, in the precision of the step.
            outputs: what the fusion makes of them unchanged, with labels.
        """


class ChangesGradients:
    """Base class of policies that change gradients. They cannot be combined with a distiller that takes the
    step."""

    @abstractmethod
    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        """Change gradients between backward and the optimiser's step."""


class DoesBackward:
    """Base class of policies that do the backward pass; at most one of several. They cannot be combined with
    a distiller that takes the step."""

    @abstractmethod
    def backward(self, terms: dict[str, Tensor], rest: Tensor, fusion: Fusion) -> bool:
        """Do the backward pass: True if it did; False leaves it to the next policy, or the core.

        Args:
            terms: scalar task terms, as weighted in the loss.
            rest: scalar, what distillers add. It needs no gradient where there are none.
        """


class StepsInTurn:
    """Base class of policies that take several optimiser steps for each batch, each on some of the losses.

    All losses are computed again before each step, for the same images, at the weights that the step before left.
    Parameters that a turn's losses do not reach stay as they are. At most one of several policies; not with one
    that does the backward pass, or a distiller that takes the step.
    """

    @property
    @abstractmethod
    def turns(self) -> tuple[str, ...]:
        """Names of the steps for each batch, in order; called after `setup`."""

    @abstractmethod
    def of_turn(self, turn: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses that this step reduces, at least one.

        Args:
            turn: one of `turns`.
            losses: scalars, as weighted in the loss: of the task, and `distiller.term.route` of distillers.
        """


class ReadsValidation:
    """Base class of policies and routings that learn from validation cells, which also select the epoch.

    What it remembers is a buffer; it may change the weights that the next epoch begins with.
    """

    @abstractmethod
    def after_validation(
        self, fusion: Fusion, validation: Evaluated, training: Callable[[], Evaluated], progress: Progress
    ) -> None:
        """Called after each epoch, after `on_epoch`; reading values back from the device is allowed.

        Args:
            validation: of all validation cells, by the weights that were judged.
            training: of all training cells, by the same weights; each call costs a pass over them.
        """


class PerCell:
    """Base class of policies that keep state per cell."""

    @abstractmethod
    def setup_cells(self, size: int) -> None:
        """Build buffers with one entry per cell: training cell ids are in 0..size-1. Called after `setup`."""


previous.keep_readable(Policy)
