"""What a training policy promises: a change to training that goes with any fusion."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from wbcbench.contracts.fusion import Fusion
from wbcbench.contracts.output import Batch, Draw, Outputs, Progress
from wbcbench.contracts.params import Parameters


class Policy(nn.Module):
    """Hooks around a fusion's training step. Every hook has a default that does nothing.

    Several policies are applied in the order given, always after the fusion's own `assemble` and
    `task_terms`. Parameters and buffers join the optimiser and the checkpoint by themselves.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.params = params

    def setup(self, fusion: Fusion) -> None:
        """Look at the fusion, build heads and buffers. Called once, before training."""

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        """Change which cells and modalities the batch shows, after the fusion has."""
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Re-weight, add or drop task terms (each [R])."""
        return terms

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        """Change gradients between backward and the optimiser's step."""

    def on_epoch(self, fusion: Fusion, progress: Progress) -> None:
        """Called after each epoch."""
