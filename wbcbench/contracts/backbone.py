"""What a backbone promises: images in, one pooled embedding (and stage maps) out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from wbcbench.contracts.output import Features
from wbcbench.contracts.params import Parameters


class Backbone(nn.Module):
    """A feature extractor without a classifier. Subclass, set `name`, declare `Params`."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    family: ClassVar[str] = ""
    """`"package.module:function"` for a component that stands for many models: the function lists their
    names without importing torch, and any of them may be given where this component's name may. The
    chosen name arrives as the parameter `model`."""
    scalable: ClassVar[bool] = True
    """Whether `width` other than 1 is understood."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    dim: int
    """Width D of the embedding; set by `__init__`."""

    def __init__(self, in_chans: int, image_size: int, params: Parameters, width: float = 1.0) -> None:
        """Build for images [B, in_chans, image_size, image_size]; `width` scales every channel count."""
        super().__init__()
        self.params = params

    @abstractmethod
    def forward(self, x: Tensor, maps: bool = False) -> Features:
        """[B, in_chans, S, S] -> embedding [B, dim], and stage maps if `maps`."""


class BackboneFactory(Protocol):
    """What a fusion gets to build its trunks with."""

    def __call__(self, in_chans: int, *, width: float = 1.0) -> Backbone:
        """A fresh backbone for images of the task's side with `in_chans` channels."""
        ...
