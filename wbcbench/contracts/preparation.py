"""How images of new cells become what a network reads, as told by the data set that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from wbcbench.data.decode import centre_square, resize_image

Array = NDArray[Any]
MIDDLE = "Cut images to their middle square and resize them as training did: Pillow's bicubic filter, antialiased."


def middle_square(image: Array, side: int) -> Array:
    """[C, H, W] -> [C, side, side]: the middle square, resized."""
    return resize_image(centre_square(image), side)


@dataclass(frozen=True)
class Preparation:
    """From the images that people have to a network's modalities.

    By default a modality is an image of its own, cut to its middle square and resized. A data set that does
    otherwise in `load` says so here, so that `predict` does the same and `export` tells it.
    """

    raw: Mapping[str, int]
    """Images that a new cell is given as -> channels."""
    words: str = MIDDLE
    """The same for people who have an exported network and not wbcbench."""
    square: Callable[[Array, int], Array] = middle_square
    """A raw image [C, H, W] as decoded, and a side -> [C, side, side]."""
    derive: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None
    """Raw images [N, C, S, S] by name -> modalities [N, C, S, S] by name; None: they are the modalities."""
    made_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> raw images it is derived from, none of which a cell may lack."""
    bits: tuple[int, ...] = ()
    """8 and 16, as far as raw images may have them; empty: those that the modalities had in training."""
    any_colour: bool = False
    """Colour images of a grey modality are made grey instead of being refused."""
    place: Callable[[str], tuple[str, str] | None] | None = None
    """A file's path below the folder -> (cell, raw image), or None for a file that is no image of a cell. None:
    a subfolder per raw image, or all images where there is one raw image only."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """What the files of training called things: `label`, `id`, `image`, `split`, `layout` and `modalities`, as the
    data sets `npz` and `folder` have them."""
    numbered: bool = False
    """Labels that are numbers count the classes, whatever these are called."""

    def parts(self, modality: str) -> tuple[str, ...]:
        """The raw images that a modality needs."""
        return self.made_of.get(modality, (modality,))


__all__ = ["MIDDLE", "Preparation", "middle_square"]
