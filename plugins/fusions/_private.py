"""One backbone for all modalities with modules of their own: stems and norms. Shared by several fusions.

The modalities go through the trunk as one stack [M B, ...], modality after modality: u's B rows, then v's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Backbone, BackboneFactory, PerModality, Task
from wbcbench.errors import IncompatibleError

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def parts_of(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """[M B, ...] -> M of [B, ...]. Not `chunk`, of whose number of parts an exported graph is not certain."""
    return tuple(torch.unbind(torch.unflatten(x, 0, (count, -1)), 0))


class Private(nn.Module):
    """M modules, one per modality: chunk m of the stack goes through module m."""

    def __init__(self, modules: Sequence[nn.Module], task: Task, channels: Sequence[int] | None = None) -> None:
        """`channels`: for stems; chunk m keeps only its first C_m channels."""
        super().__init__()
        places = dict(zip(map(str, range(len(modules))), task.modalities, strict=True))
        self.each = PerModality(dict(zip(places, modules, strict=True)), places)
        self.channels = channels

    def split(self, x: Tensor) -> list[Tensor]:
        """[M B, ...] -> M of [B, ...], each through its own module."""
        parts = parts_of(x, len(self.each))
        if self.channels is not None:
            parts = tuple(p[:, : self.channels[int(i)]] for i, p in zip(self.each, parts, strict=True))
        return [module(p) for module, p in zip(self.each.values(), parts, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.split(x))


def stem_name(backbone: BackboneFactory, channels: int) -> str:
    """Name of the one module whose own parameters depend on the number of input channels.

    Raises:
        IncompatibleError: there is none, or more than one.
    """
    nets = [backbone(channels), backbone(channels + 1)]
    shapes = [{n: p.shape for n, p in net.named_parameters()} for net in nets]
    names = {n.rpartition(".")[0] for n, s in shapes[0].items() if shapes[1].get(n) != s}
    name = min(names, default="")
    if len(names) != 1 or not name or not isinstance(nets[0].get_submodule(name), nn.Conv2d):
        raise IncompatibleError(
            f"This fusion needs a backbone that reads the image with one convolution, but '{nets[0].name}' "
            f"reads it with {sorted(names) or 'none'}. Choose cellnet, or a timm model such as resnet18."
        )
    return name


def replace_module(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the submodule `name` was."""
    parent, _, child = name.rpartition(".")
    net.get_submodule(parent).register_module(child, module)


def private_backbone(
    task: Task,
    backbone: BackboneFactory,
    kinds: tuple[type[nn.Module], ...] = NORMS,
    wrap: Callable[[Sequence[nn.Module], Task], nn.Module] = Private,
) -> Backbone:
    """One backbone for stacks: a stem per modality, a norm per modality, everything else shared.

    Its parameters: P + sum_m S(C_m) + (M - 1) times those of the norms.
    """
    stem = stem_name(backbone, min(task.channels.values()))
    nets = [backbone(c) for c in task.channels.values()]
    net = nets[0]
    stems = [n.get_submodule(stem) for n in nets]
    norms = [n for n, m in net.named_modules() if isinstance(m, kinds)]
    for name in norms:
        norm = net.get_submodule(name)
        replace_module(net, name, wrap([copy.deepcopy(norm) for _ in nets], task))
    replace_module(net, stem, Private(stems, task, tuple(task.channels.values())))
    return net


def stack(images: dict[str, Tensor], task: Task) -> Tensor:
    """M images [B, C_m, S, S] -> [M B, max C, S, S]: missing channels are zero, and the stems drop them."""
    most = max(task.channels.values())
    padded = [F.pad(images[m], (0, 0, 0, 0, 0, most - c)) for m, c in task.channels.items() if m in images]
    return torch.cat(padded)
