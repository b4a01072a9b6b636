"""One encoded image: what its header says, and its pixels as a centred square.

PNG, JPEG, TIFF and BMP, one frame each. 8-bit grey and colour, 16-bit grey (kept as uint16). Alpha is
dropped, palettes become colour, bilevel becomes 8-bit grey. Pillow reduces colour of 16 bits a channel to 8.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbcbench.data.resize import centre_square, resize_image

Array = np.ndarray[Any, np.dtype[Any]]
DECODER_VERSION = 1
"""Raised whenever the same file would give other pixels: part of fingerprints and of cache keys."""
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

_GREY_8 = ("1", "L", "LA", "La")
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")


class UndecodableError(ValueError):
    """Why one image cannot be used; the caller adds which one."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image will decode to."""

    width: int
    height: int
    channels: int
    """1 or 3."""
    bits: int
    """8 or 16."""


def read_header(data: bytes) -> ImageHeader:
    """Read size and kind without decoding pixels. Raises `UndecodableError`."""
    with _opened(data) as image, _decoding():
        return _header(image)


def decode_square(data: bytes, channels: int, side: int | None) -> Array:
    """Decode to [channels, side, side] (uint8, or uint16 for 16-bit grey), centre-cropped, antialiased.

    Args:
        data: the encoded file.
        channels: 1 (colour becomes grey), or 3 (grey is repeated).
        side: None keeps the shorter side.

    Raises:
        UndecodableError: broken or truncated data, or more than `MAX_PIXELS`.
    """
    square = centre_square(decode_whole(data, channels))
    return resize_image(square, side) if side else square


def decode_whole(data: bytes, channels: int) -> Array:
    """Decode to [channels, height, width], nothing cut or resized; see `decode_square`."""
    with _opened(data) as image, _decoding():
        header = _header(image)
        if header.bits == 16:
            wide = np.asarray(image)
            if wide.min() < 0 or wide.max() > 65535:
                raise UndecodableError(f"holds values {wide.min()}..{wide.max()}; expected 8 or 16 bits")
            pixels: Array = wide.astype(np.uint16)[None]
        elif header.channels == 1 or channels == 1:
            pixels = np.asarray(image.convert("L"))[None]
        else:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return np.repeat(pixels, 3, axis=0) if channels == 3 and len(pixels) == 1 else pixels


def _header(image: Any) -> ImageHeader:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UndecodableError(
            f"has {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million are read"
        )
    # A phone's JPEG may carry previews behind the picture itself (MPO): the first frame is meant.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UndecodableError(f"holds {frames} frames; save the one you mean as a file of its own")
    if image.mode in _GREY_16:
        return ImageHeader(width, height, 1, 16)
    if image.mode in _GREY_8:
        return ImageHeader(width, height, 1, 8)
    if image.mode in _COLOUR:
        return ImageHeader(width, height, 3, 8)
    raise UndecodableError(f"has pixels of mode {image.mode}; save it with 8 or 16 bits")


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except UndecodableError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on broken data
        raise UndecodableError(f"cannot be decoded ({error})") from error


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    from PIL import Image

    if not data:
        raise UndecodableError("is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked, and of odd metadata
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UndecodableError(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
        except Exception as error:
            raise UndecodableError(f"is no readable {', '.join(FORMATS)}") from error
        with image:
            yield image
