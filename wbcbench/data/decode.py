"""Decoding of one image: its header, its pixels as a square of a given size, and its colour spaces."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wbcbench.contracts.dataset import centre_square, resize_image
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
DECODER_VERSION = 1
"""Increased whenever the same file would decode to other pixels: part of fingerprints and cache keys."""
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

_GREY_8 = ("1", "L", "LA", "La")
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")


class UndecodableError(ValueError):
    """An image that cannot be used. The text is the reason; the caller adds the image's name."""


@dataclass(frozen=True)
class ImageHeader:
    """Size and pixel type that an image decodes to."""

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
        UndecodableError: corrupt or truncated data, or more than `MAX_PIXELS`.
    """
    square = centre_square(decode_whole(data, channels))
    return resize_image(square, side) if side else square


def decode_whole(data: bytes, channels: int) -> Array:
    """Decode to [channels, height, width] without cropping or resizing; see `decode_square`."""
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
    # A phone's JPEG may contain previews after the picture (MPO): the first frame is the picture.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UndecodableError(f"holds {frames} frames; save the one to use as a separate file")
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
    except Exception as error:  # Pillow's decoders raise almost any exception on corrupt data
        raise UndecodableError(f"cannot be decoded ({error})") from error


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    from PIL import Image

    if not data:
        raise UndecodableError("is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes, which are checked here, and about unusual metadata
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UndecodableError(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
        except Exception as error:
            raise UndecodableError(f"is not a readable {', '.join(FORMATS)}") from error
        with image:
            yield image


def to_integers(a: Array, what: str) -> tuple[Array, str | None]:
    """Return `a` as uint8 or uint16, and a note if values were scaled or rounded.

    Floats must be in [0, 1] (scaled by 255) or [0, 255] (rounded); other integer types must fit
    16 bits; booleans become 0 and 255.

    Raises:
        DataError: NaN, infinity, values outside those ranges, or a type that cannot hold pixels.
    """
    if a.dtype in (np.uint8, np.uint16):
        return a, None
    if a.dtype.kind == "b":
        return a.astype(np.uint8) * np.uint8(255), None
    if a.dtype.kind not in "iuf":
        raise DataError(f"Expected {what} as numbers, but it is {a.dtype}. Convert it to uint8.")
    low, high = (a.min(), a.max()) if a.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            f"Expected finite pixels in {what}, but {int((~np.isfinite(a)).sum())} are NaN or infinite. "
            "Fill them, or leave those cells out."
        )
    if a.dtype.kind in "iu":
        if low < 0 or high > 65535:
            raise DataError(
                f"Expected whole numbers of at most 16 bits in {what}, but they run from {low} to {high}. "
                "Scale them to 0..255 with a fixed window and save uint8."
            )
        return a.astype(np.uint8 if high <= 255 else np.uint16), None
    if low < 0 or high > 255:
        raise DataError(
            f"Expected floats in [0, 1] or [0, 255] in {what}, but they run from {low:g} to {high:g}. "
            "Scale them with one fixed window for all cells (not cell by cell, which would erase "
            "absolute intensity) and save uint8 or uint16."
        )
    if high <= 1:
        return np.rint(a * 255).astype(np.uint8), f"{what}: floats in [0, 1] were scaled to 0..255."
    return np.rint(a).astype(np.uint8), f"{what}: floats in [0, 255] were rounded."


Space = Literal["hed", "hsv", "lab", "rgb"]
COLOUR_VERSION = 1
"""Increased whenever the same image would give other values."""

WINDOWS: dict[Space, dict[str, tuple[float, float]]] = {
    # Ruifrok & Johnston's stain vectors as in scikit-image (optical density over -log(1e-6)). The third is DAB,
    # which blood smears do not have: there it is the residual that haematoxylin and eosin do not explain.
    "hed": {"haematoxylin": (0.0, 0.2), "eosin": (0.0, 0.2), "residual": (0.0, 0.1)},
    # Hue is an angle: 0 and 255 are neighbours.
    "hsv": {"hue": (0.0, 1.0), "saturation": (0.0, 1.0), "value": (0.0, 1.0)},
    "lab": {"lightness": (0.0, 100.0), "green_red": (-128.0, 127.0), "blue_yellow": (-128.0, 127.0)},
    "rgb": {"red": (0.0, 1.0), "green": (0.0, 1.0), "blue": (0.0, 1.0)},
}
"""Space -> modality -> the values that become 0 and 255, in canonical order."""

_FUNCTIONS: dict[Space, str] = {"hed": "rgb2hed", "hsv": "rgb2hsv", "lab": "rgb2lab", "rgb": ""}
RECIPES: dict[Space, str] = {
    space: (f"skimage.color.{function} of " if function else "")
    + "RGB / 255 (/ 65535 for 16 bits), each channel cut to its window ("
    + ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in WINDOWS[space].items())
    + "), scaled to 0 .. 255 and rounded."
    for space, function in _FUNCTIONS.items()
}
"""Space -> what `convert` does, in words, for users who need to reproduce it elsewhere."""

_CHUNK = 256


def convert(
    images: Array, space: Space, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Array]:
    """Turn RGB [N, 3, S, S] (uint8 or uint16, full range) into modality -> [N, 1, S, S] uint8."""
    windows = WINDOWS[space]
    count, _, side, _ = images.shape
    out: dict[str, Array] = {name: np.empty((count, 1, side, side), np.uint8) for name in windows}
    low, high = (np.array([w[i] for w in windows.values()]) for i in (0, 1))
    for start in range(0, count, _CHUNK):  # float64 copies of all cells at once could fill the memory
        part = images[start : start + _CHUNK].transpose(0, 2, 3, 1)
        values = _transform(part / np.iinfo(images.dtype).max, space)
        scaled = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        for i, array in enumerate(out.values()):
            array[start : start + len(part), 0] = scaled[..., i]
        if progress:
            progress(min(start + _CHUNK, count), count, f"cells as {space}")
    return out


def _transform(rgb: Array, space: Space) -> Array:
    if space == "rgb":
        return rgb
    from skimage import color

    transforms: dict[str, Callable[[Array], Array]] = {
        "hed": color.rgb2hed,
        "hsv": color.rgb2hsv,
        "lab": color.rgb2lab,
    }
    return transforms[space](rgb)
