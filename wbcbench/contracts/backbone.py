"""What a backbone promises: images or vectors in, one embedding (and stage maps of images) out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from wbcbench.contracts.output import Features
from wbcbench.contracts.params import Parameters
from wbcbench.errors import IncompatibleError


class Renormalise(nn.Module):
    """Normalised images as a pretrained network knows them: pixel values in [0, 1], less `mean`, over `sd`.

    For a backbone that sends its input through one. Before training the core finds which channels arrive here, and
    calls `measure`; the result is stored with the weights. Grey images are repeated for each of the means.
    """

    def __init__(self, in_chans: int, mean: Sequence[float], sd: Sequence[float]) -> None:
        """`mean` and `sd` of one channel each; for other numbers of channels but one they are repeated or cut."""
        super().__init__()
        count = len(mean) if in_chans == 1 else in_chans
        self.mean, self.sd = ([float(v[i % len(v)]) for i in range(count)] for v in (mean, sd))
        self.register_buffer("scale", torch.ones(count, 1, 1))
        self.register_buffer("offset", torch.zeros(count, 1, 1))
        self.scale: Tensor
        self.offset: Tensor
        self.measure(torch.full((in_chans,), 0.5), torch.full((in_chans,), 0.25))

    @property
    def out_chans(self) -> int:
        return len(self.mean)

    def measure(self, mean: Tensor, sd: Tensor) -> None:
        """Set what the input was normalised by: mean and sd [in_chans] of pixel values in [0, 1]."""
        own_mean, own_sd = (torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.sd))
        self.scale.copy_((sd.double() / own_sd)[:, None, None])
        self.offset.copy_(((mean.double() - own_mean) / own_sd)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, S, S] -> [B, out_chans, S, S]."""
        return x * self.scale + self.offset


class Backbone(nn.Module):
    """A feature extractor without a classifier. Subclass, set `name`, declare `Params`."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    family: ClassVar[str] = ""
    """`"package.module:function"` for a component that represents many models: the function lists their
    names without importing torch, and any of them may be given in place of this component's name. The
    chosen name arrives as the parameter `model`."""
    scalable: ClassVar[bool] = True
    """Whether `width` other than 1 is supported."""
    reads: ClassVar[Literal["images", "vectors"]] = "images"
    """`vectors`: it is for modalities that are numbers [B, F], F = `in_chans`; `image_size` is then 0."""

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
        """[B, in_chans, S, S], or [B, in_chans] of a vector -> embedding [B, dim], and stage maps if `maps`."""

    @property
    def frozen_views(self) -> int:
        """Of a network of which nothing is trained and no statistics are kept: how many views of each cell it is
        shown, after which they repeat, so that each is computed once. 0: it is trained."""
        return 0

    def rate_factors(self) -> Iterable[tuple[nn.Parameter, float]]:
        """Parameters with a learning rate of their own, as a factor on the recipe's. Default: none."""
        return ()

    @property
    def stage_count(self) -> int:
        """Number of stages, equal to that of the maps that `forward` returns; 0: cannot be split into stages."""
        return 0

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Run one stage: the image [B, in_chans, S, S] (stage 0) or the previous map -> the next map.

        For fusions that exchange maps between stages. Whatever follows the last stage (a norm, a wide
        convolution before the classifier) is not run: such fusions pool the last map themselves.
        """
        raise NotImplementedError(f"{self.name} cannot be split into stages")


def stage_shapes(backbone: Backbone, in_chans: int, image_size: int) -> tuple[tuple[int, int, int], ...]:
    """(C, H, W) of every stage's map, from one blank image in eval mode.

    Raises:
        IncompatibleError: the backbone cannot be split into stages.
    """
    if not backbone.stage_count:
        model = getattr(backbone.params, "model", backbone.name)
        raise IncompatibleError(
            f"This fusion exchanges maps between stages, but backbone '{model}' cannot be split into stages. "
            "Choose cellnet or a convolutional timm model such as resnet18."
        )
    was_training = backbone.training
    backbone.eval()
    x = torch.zeros(1, in_chans, image_size, image_size)
    shapes = []
    with torch.no_grad():
        for number in range(backbone.stage_count):
            x = backbone.stage(number, x)
            shapes.append((int(x.shape[1]), int(x.shape[2]), int(x.shape[3])))
    backbone.train(was_training)
    return tuple(shapes)


class BackboneFactory(Protocol):
    """Builds the backbones of a fusion; an argument of its constructor."""

    def __call__(self, in_chans: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        """A new backbone for images of the task's side with `in_chans` channels.

        `modality`: the only one that it reads; users may choose a backbone for each. None: it reads several. A
        fusion that names the modality of every backbone declares `FusionTraits.own_backbones`.
        """
        ...
