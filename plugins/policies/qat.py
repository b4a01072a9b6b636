"""Quantisation-aware training: the student learns with the rounding that `export --quantize int8` will add."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wbcbench.contracts import Fusion, Parameters, Policy, PolicyTraits, Progress, param
from wbcbench.errors import IncompatibleError

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights and inputs are rounded."""


def rounded(x: Tensor, step: Tensor) -> Tensor:
    """The nearest multiple of `step`, with the gradient of x (straight through)."""
    return x + ((x / step).round() * step - x).detach()


def int8_weight(weight: Tensor) -> Tensor:
    """-127 .. 127 times a scale per output channel, the first dimension."""
    largest = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12)
    return rounded(weight, (largest / 127).view(-1, *[1] * (weight.ndim - 1)))


def uint8_input(x: Tensor) -> Tensor:
    """256 values from the least to the greatest of the batch, 0 among them."""
    values = x.detach()
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    return rounded(x, ((high - low) / 255).clamp_min(1e-12))


class QAT(Policy):
    """In the last part of training, weights and inputs of convolutions and linear layers are rounded as in INT8.

    Weights symmetrically with a scale per output channel, inputs with one range per layer, that of the batch;
    gradients go straight through the rounding. Teachers, and the network in evaluation, are not rounded: the
    record's own scores are those of the float network, and `evaluate --deployed onnx-int8` measures the quantised
    one. Modules that are kept in evaluation mode (frozen ones) are left as they are.
    """

    name = "qat"
    source = "Jacob et al., CVPR 2018, arXiv 1712.05877; straight-through gradient of arXiv 1308.3432"
    traits = PolicyTraits(acts_on="losses")

    class Params(Parameters):
        start: float = param(
            0.5, "Share of the epochs after which rounding begins.", ge=0, lt=1, search=[0.0, 0.5, 0.75]
        )

    params: Params
    active: Tensor

    def __init__(self, params: Parameters) -> None:
        super().__init__(params)
        # a buffer, so that a resumed run goes on with it; a factor, so that nothing is read from the device
        self.register_buffer("active", torch.tensor(float(self.params.start == 0)))

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        layers = [m for m in fusion.modules() if isinstance(m, WEIGHTED)]
        if not layers:
            raise IncompatibleError(
                f"Fusion '{fusion.name}' has no convolution or linear layer, so policy 'qat' has nothing to round."
            )

        # functions, not methods: a copy of the fusion must not copy this policy
        def before(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not layer.training:
                return None
            weight, x = layer._parameters["weight"], inputs[0]
            assert weight is not None
            # beside the parameter: `layer.weight` is this until the layer has run
            layer.__dict__["weight"] = weight + self.active * (int8_weight(weight) - weight)
            return (x + self.active * (uint8_input(x) - x), *inputs[1:])

        def after(layer: nn.Module, inputs: Any, output: Any) -> None:
            layer.__dict__.pop("weight", None)

        for layer in layers:
            layer.register_forward_pre_hook(before)
            layer.register_forward_hook(after, always_call=True)

    def on_epoch(self, fusion: Fusion, progress: Progress, losses: dict[str, float]) -> None:
        self.active.fill_(float(progress.epoch + 1 >= self.params.start * progress.epochs))
