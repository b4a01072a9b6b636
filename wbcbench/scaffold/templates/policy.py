"""my_method: state in one line what it does.

Start from here. The contract is `wbcbench.contracts.Policy`.
"""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import Batch, Draw, Outputs, Parameters, Policy, PolicyTraits, Progress, over_rows, param


class MyMethod(Policy):
    """Each image is dimmed or brightened at random, and later routes' losses count a little less."""

    name = "my_method"
    traits = PolicyTraits(acts_on="images")  # its stage: rows, images, losses, weights, gradients

    class Params(Parameters):
        # Set by `--policy my_method:strength=0.2`.
        # `search`: the values that `wbcbench search` tries.
        strength: float = param(0.1, "Largest change of an image's contrast.", ge=0, le=0.9, search=(0.0, 0.5))
        share: float = param(0.9, "Factor on the losses of all routes but the first.", ge=0, le=1)

    params: Params

    def images(self, batch: Batch, draw: Draw) -> Batch:
        # Random numbers come from `draw`: they depend on seed, epoch, step and the salt, so that a resumed run
        # equals an uninterrupted one. Replace tensors, never change them in place.
        changed = {}
        for m, x in batch.images.items():  # x is [R, C_m, S, S], or [R, F_m] of numbers; normalised
            factor = 1 + self.params.strength * (2 * draw.uniform(len(x), f"contrast:{m}") - 1)
            changed[m] = x * over_rows(factor, x)
        batch.images = changed
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        # Multiply losses or add some; never detach them, never .item(): the program would wait for the device.
        return {name: v * (self.params.share if i else 1.0) for i, (name, v) in enumerate(terms.items())}

    # Further hooks, each with a default that does nothing: setup, assemble, on_epoch. What is remembered between
    # steps goes into a buffer (register_buffer). Gradients, which fusions it works with, and more: the guide
    # "The contracts".
