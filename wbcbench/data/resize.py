"""Squares of one size: centre-crop and antialiased resize of single images and of stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
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
