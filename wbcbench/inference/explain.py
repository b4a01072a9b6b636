"""Where in which modality a network looked: class-activation maps by captum.

Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391) at the last map that depends on one modality alone. Where
no map does, as in early fusion, or where it is not deep, as in a transformer, occlusion (Zeiler & Fergus, ECCV
2014, arXiv 1311.2901): how much the class's probability falls when a square of the modality is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wbcbench.errors import UsageError
from wbcbench.inference.network import PROBABILITIES, Network

WINDOWS = 8
"""Places of the hidden square along each side."""
_TINY = 1e-12


@dataclass(frozen=True)
class Explained:
    """Maps of B cells for one modality."""

    maps: NDArray[np.float32]
    """[B, S, S]; higher: speaks more for the predicted class. Grad-CAM has no values below 0."""
    how: str
    """`grad-cam` or `occlusion`."""


def explain(network: Network, images: dict[str, Tensor], classes: Tensor) -> dict[str, Explained]:
    """Maps of every modality for the given classes.

    Args:
        network: in eval mode, on the CPU, without gradients of its own.
        images: modality -> [B, C, S, S] as stored, all there.
        classes: [B] int64, the class that each cell's maps are for.

    Raises:
        UsageError: captum is not installed.
    """
    try:
        from captum.attr import LayerAttribution, LayerGradCam, Occlusion
    except ImportError:
        raise UsageError(
            "Expected the package 'captum' for --explain, but it is not installed. Run: pip install "
            "'wbcbench[explain]'"
        ) from None
    names = network.modalities
    seen = {m: network.normaliser(m, images[m]) for m in names}
    inputs = tuple(seen[m] for m in names)
    side = inputs[0].shape[-1]

    def probability(*xs: Tensor) -> Tensor:
        return network.answer(dict(zip(names, xs, strict=True)))[PROBABILITIES]

    def logarithm(*xs: Tensor) -> Tensor:
        return probability(*xs).clamp_min(_TINY).log()

    found: dict[str, Explained] = {}
    for m in names:
        layer = own_layer(network, seen, m)
        if layer is None:
            continue
        with torch.enable_grad():
            tracked = tuple(x.clone().requires_grad_(True) for x in inputs)
            small = LayerGradCam(logarithm, layer).attribute(tracked, target=classes, relu_attributions=True)
            large = LayerAttribution.interpolate(small, (side, side), interpolate_mode="bilinear")
        found[m] = Explained(large.detach().sum(1).numpy(), "grad-cam")
    if left := [m for m in names if m not in found]:
        # Hidden: the training mean, which is zero after normalisation.
        window = max(1, side // (WINDOWS // 2))
        stride = max(1, side // WINDOWS)
        with torch.no_grad():
            drops = Occlusion(probability).attribute(
                inputs,
                sliding_window_shapes=tuple((x.shape[1], window, window) for x in inputs),
                strides=tuple((x.shape[1], stride, stride) for x in inputs),
                baselines=(0.0,) * len(inputs),
                target=classes,
            )
        for m, drop in zip(names, drops, strict=True):
            if m in left:
                found[m] = Explained(drop.detach().mean(1).numpy(), "occlusion")
    return {m: found[m] for m in names}


def own_layer(network: Network, seen: dict[str, Tensor], modality: str) -> nn.Module | None:
    """The last module whose output is a map that depends on this modality and on no other; None: there is none.

    Found by asking of which outputs a gradient reaches which modality's image. It must lie behind two convolutions
    and run once.
    """
    mine, others = _maps(network, seen, {modality}), _maps(network, seen, set(seen) - {modality})
    depth, last = 0, None
    for module, calls in mine.items():
        own = module not in others
        depth += own and isinstance(module, nn.Conv2d)
        if own and calls == 1 and depth > 1:
            last = module
    return last


def _maps(network: Network, seen: dict[str, Tensor], which: set[str]) -> dict[nn.Module, int]:
    """Modules whose output is [B, C, H, W], H and W above 1, and depends on these modalities; how often they ran.

    In the order in which they ended.
    """
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1 and output.requires_grad:
            found[module] = found.pop(module, 0) + 1

    handles = [m.register_forward_hook(note) for m in network.body.modules()]
    try:
        with torch.enable_grad():
            network.answer({m: x[:1].detach().clone().requires_grad_(m in which) for m, x in seen.items()})
    finally:
        for handle in handles:
            handle.remove()
    return found


__all__ = ["Explained", "explain", "own_layer"]
