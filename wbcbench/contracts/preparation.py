"""How images of new cells become what a network reads, as told by the data set that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MIDDLE = "Cut images to their middle square and resize them as training did: Pillow's bicubic filter, antialiased."


RESIZE_VERSION = 1
"""Raised whenever the same image would give other pixels: part of the keys of cached arrays."""


def centre_square(image: Array) -> Array:
    """Cut the middle square out of [C, H, W]; an odd pixel is cut from the bottom or right."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]


def in_window(image: Array, side: int) -> Array:
    """Place [C, H, W] in the middle of [C, side, side] without rescaling.

    What does not fit is cut; what is missing is filled with the median of the image's own border, channel by
    channel. An odd pixel is cut from, or added at, the bottom or right.
    """
    image = image[:, *(slice(max(0, n - side) // 2, max(0, n - side) // 2 + side) for n in image.shape[1:])]
    height, width = image.shape[1:]
    border = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    out = np.empty((len(image), side, side), dtype=image.dtype)
    out[:] = np.median(border, axis=1).astype(image.dtype)[:, None, None]
    top, left = (side - height) // 2, (side - width) // 2
    out[:, top : top + height, left : left + width] = image
    return out


def resize_image(image: Array, side: int) -> Array:
    """Resize [C, S, S] (uint8 or uint16) to [C, side, side]: bicubic, antialiased when it shrinks."""
    from PIL import Image

    if image.shape[1] == side:
        return image
    size, bicubic = (side, side), Image.Resampling.BICUBIC
    if image.dtype == np.uint8 and len(image) in (1, 3):
        whole = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
        out = np.asarray(whole.resize(size, bicubic))
        return out[None] if len(image) == 1 else out.transpose(2, 0, 1)
    # Pillow resizes 16 bit only as float.
    planes = [np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, bicubic)) for plane in image]
    rounded: Array = np.clip(np.rint(np.stack(planes)), 0, np.iinfo(image.dtype).max).astype(image.dtype)
    return rounded


def resize_stack(images: Array, side: int | None) -> Array:
    """Resize [N, C, S, S] to `side` (None: as it is); contiguous."""
    if side is None or images.shape[2] == side:
        return np.ascontiguousarray(images)
    out = np.empty((*images.shape[:2], side, side), dtype=images.dtype)
    for i, image in enumerate(images):
        out[i] = resize_image(image, side)
    return out


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
