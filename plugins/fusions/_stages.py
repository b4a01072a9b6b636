"""Trunks that run stage by stage, cut down to the stages that run; shared by fusions that exchange maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from wbcbench.contracts import Backbone, BackboneFactory, PerModality, Task, stage_shapes
from wbcbench.errors import IncompatibleError

Shape = tuple[int, int, int]
"""C, H, W of a map."""


class Trunks(PerModality):
    """One backbone per modality, in canonical order, run in lockstep."""

    def step(self, number: int, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> map before stage `number` (or image), to modality -> map after it."""
        return {m: cast(Backbone, net).stage(number, maps[m]) for m, net in self.items()}


def build_trunks(task: Task, backbone: BackboneFactory, stages: int = 0) -> tuple[Trunks, tuple[Shape, ...]]:
    """A trunk per modality, cut after `stages` stages (0: all), and the shapes of all stages' maps.

    Raises:
        IncompatibleError: the backbone cannot be taken apart, or has fewer stages.
    """
    nets = {m: backbone(c) for m, c in task.channels.items()}
    first = task.modalities[0]
    shapes = stage_shapes(nets[first], task.channels[first], task.image_size)
    if stages > len(shapes):
        raise IncompatibleError(
            f"Stage {stages} was requested, but backbone '{nets[first].name}' has {len(shapes)}. "
            f"Choose a stage from 1 to {len(shapes)}."
        )
    for m, net in nets.items():
        keep_stages(net, range(stages or len(shapes)), (task.channels[m], task.image_size, task.image_size))
    return Trunks(nets), shapes


def build_own_trunks(task: Task, backbone: BackboneFactory) -> tuple[Trunks, dict[str, tuple[Shape, ...]]]:
    """As `build_trunks`, with any backbone for each modality, and the shapes of each one's maps.

    Raises:
        IncompatibleError: a backbone cannot be taken apart, or they have different numbers of stages.
    """
    nets = {m: backbone(c, modality=m) for m, c in task.channels.items()}
    shapes = {m: stage_shapes(net, task.channels[m], task.image_size) for m, net in nets.items()}
    if len({len(own) for own in shapes.values()}) > 1:
        raise IncompatibleError(
            "Expected backbones with as many stages each, since modalities exchange maps after a stage, but got "
            f"{', '.join(f'{m}={len(own)}' for m, own in shapes.items())}. Choose others, or one for all."
        )
    for m, net in nets.items():
        keep_stages(net, range(len(shapes[m])), (task.channels[m], task.image_size, task.image_size))
    return Trunks(nets), shapes


def keep_stages(net: Backbone, stages: Iterable[int], shape: Shape) -> Backbone:
    """Take out of `net`, in place, every module that running `stages` from a map of `shape` does not use.

    They are found by one backward pass. What remains is what is trained and counted.
    """
    was_training = net.training
    net.eval()
    frozen = [p.requires_grad_(True) for p in net.parameters() if not p.requires_grad]
    x = torch.zeros(1, *shape)
    for number in stages:
        x = net.stage(number, x)
    everything = list(net.parameters())
    found = torch.autograd.grad(x.sum(), everything, allow_unused=True) if x.requires_grad else ()
    used = {id(p) for p, g in zip(everything, found, strict=False) if g is not None}
    _prune(net, used)
    for parameter in frozen:
        parameter.requires_grad_(False)
    net.train(was_training)
    return net


def _prune(module: nn.Module, used: set[int]) -> None:
    for name, child in list(module.named_children()):
        parameters = list(child.parameters())
        if parameters and not any(id(p) in used for p in parameters):
            module.register_module(name, nn.Identity())
        else:
            _prune(child, used)
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(id(parameter) in used)


def chosen_stages(sites: str, count: int) -> tuple[int, ...]:
    """`"all"`, `"last"`, or stages counted from 1 and joined by `+`, as 0-based numbers, ascending.

    Raises:
        IncompatibleError: a stage that the backbone does not have, or another spelling.
    """
    if sites == "all":
        return tuple(range(count))
    if sites == "late":
        return tuple(range(count // 2, count))
    if sites == "last":
        return (count - 1,)
    parts = sites.removeprefix("s").split("+")
    numbers = sorted({int(p) - 1 for p in parts if p.isdecimal()})
    if not numbers or not all(p.isdecimal() for p in parts) or numbers[0] < 0 or numbers[-1] >= count:
        raise IncompatibleError(
            f"Expected stages such as 's2+3' (from 1 to {count}), 'late', 'all' or 'last', but got '{sites}'."
        )
    return tuple(numbers)


def affine(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer."""
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


def pool(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C], the mean over places."""
    return x.mean((2, 3))


def availability(present: Tensor | None, like: Tensor, modalities: int) -> Tensor:
    """[B, M] of zeros and ones in the dtype of `like` [B, ...]; all ones when everything is there."""
    if present is None:
        return like.new_ones(like.shape[0], modalities)
    return present.to(like.dtype)


def masked(x: Tensor, present: Tensor | None, column: int) -> Tensor:
    """`x` [B, ...] with the rows of an absent modality set to zero, whatever they hold."""
    if present is None:
        return x
    return torch.where(present[:, column].view(-1, *[1] * (x.ndim - 1)), x, 0.0)


def with_blanks(values: dict[str, Tensor], modalities: tuple[str, ...]) -> list[Tensor]:
    """In the order of the modalities; zeros for those that the fusion was deployed without. All of one shape."""
    like = next(iter(values.values()))
    return [values[m] if m in values else torch.zeros_like(like) for m in modalities]


def concatenated(pooled: list[Tensor], present: Tensor | None) -> Tensor:
    """[h_1; ..; h_M] with absent ones zero and the rest scaled by M / (number present): [B, sum D].

    The scale keeps the sum of M linear maps of equal size what it is with everything there.
    """
    count = len(pooled)
    seen = availability(present, pooled[0], count)
    scale = count / seen.sum(1, keepdim=True).clamp(min=1)
    return torch.cat([masked(h, present, i) for i, h in enumerate(pooled)], 1) * scale
