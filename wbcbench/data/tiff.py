"""TIFF as its tags describe it: depth, channels, alpha, grey scale, layout and orientation of the samples."""

from __future__ import annotations

import functools
import io
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE, _BLACK, _RGB = 0, 1, 2
_CONVERTED = {3: ("a palette", 1), 5: ("CMYK", 4), 6: ("YCbCr", 3), 8: ("Lab", 3)}
"""Photometric interpretation -> name and samples of colour; decoded to RGB with 8 bits."""
_JPEG = (6, 7)
_ASSOCIATED, _UNASSOCIATED = 1, 2


class TiffError(ValueError):
    """A TIFF that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class Tiff:
    """The first page of a TIFF, from its tags."""

    width: int
    height: int
    pages: int
    channels: int
    """Without alpha."""
    bits: int
    """8 or 16: those of the decoded pixels."""
    depth: int
    """Bits of a sample in the file."""
    inverted: bool
    """0 is white."""
    alpha: tuple[int, ...]
    """Samples that are transparency."""
    premultiplied: bool
    """Whether colours were multiplied by alpha."""
    orientation: int
    profile: bytes
    converted: bool
    """The pixels need what Pillow has: palette, CMYK, YCbCr and Lab to RGB, JPEG, less than 8 bits."""


@functools.cache
def _tifffile() -> Any:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters about a file is raised here
    return tifffile


def examine(data: bytes) -> Tiff:
    """Read the tags. Raises `TiffError` for samples that are not decoded, and other errors for damaged files."""
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        pages = len(file.pages)
        return _examined(file.pages[0], pages)


def _examined(page: Any, pages: int) -> Tiff:
    samples, depth, kind = int(page.samplesperpixel), page.bitspersample, int(page.photometric)
    if not isinstance(depth, int) or not isinstance(page.sampleformat, int):
        raise TiffError("has samples of different depths; save it with 8 or 16 bits a sample")
    if page.sampleformat not in (1, 2, 4):
        raise TiffError(
            f"holds {depth}-bit floating point samples; save it with 8 or 16 bits (scale all images with one "
            "fixed window, not each by itself)"
        )
    if page.imagedepth != 1:
        raise TiffError(f"is a stack of {page.imagedepth} planes; save the one to use as a separate file")
    given = tuple(int(e) for e in page.extrasamples or ())
    colours = {_WHITE: 1, _BLACK: 1, _RGB: 3}.get(kind)
    jpeg = int(page.compression) in _JPEG
    if colours is None:
        if kind not in _CONVERTED:
            raise TiffError(f"has the photometric interpretation {kind}; save it as grey or RGB")
        name, colours = _CONVERTED[kind]
        unknown = any(e not in (_ASSOCIATED, _UNASSOCIATED) for e in given) or samples - len(given) != colours
        if depth > 8 or unknown:
            raise TiffError(f"is {name} with {samples} samples of {depth} bits; save it as grey or RGB")
        alpha: tuple[int, ...] = tuple(range(colours, samples))
        channels, converted = 3, True
    else:
        # Samples that no tag explains are channels: what they mean, only the user knows.
        extra = (*given, *[0] * samples)[: max(0, samples - colours)]
        alpha = tuple(colours + i for i, e in enumerate(extra) if e in (_ASSOCIATED, _UNASSOCIATED))
        channels = samples - len(alpha)
        converted = depth < 8 or (jpeg and depth == 8)
        if converted and channels not in (1, 3):
            how = "JPEG compression" if jpeg else f"{depth} bits"
            raise TiffError(f"has {channels} channels and {how}; save it with 8 or 16 bits, without JPEG")
    if depth > 32:
        raise TiffError(f"has {depth} bits a sample; save it with 8 or 16 bits")
    tag = page.tags.get(274)
    orientation = int(tag.value) if tag is not None and isinstance(tag.value, int) else 1
    profile = page.tags.get(34675)
    multiplied = [i for i in alpha if i - colours < len(given) and given[i - colours] == _ASSOCIATED]
    return Tiff(
        width=int(page.imagewidth), height=int(page.imagelength), pages=pages, channels=channels,
        bits=8 if depth <= 8 else 16, depth=depth, inverted=kind == _WHITE, alpha=alpha,
        premultiplied=bool(multiplied), orientation=orientation if orientation in range(1, 9) else 1,
        profile=bytes(profile.value) if profile is not None else b"", converted=converted,
    )  # fmt: skip


def pixels(data: bytes, tiff: Tiff) -> Array:
    """Decode a page that is not `converted` to [C, H, W], uint8 or uint16, without alpha.

    Raises:
        TiffError: strips or tiles are missing, or values do not fit 16 bits. Other errors for damaged files.
    """
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        _complete(page, len(data))
        raw = page.asarray(maxworkers=1)
        if page.axes not in ("YX", "YXS", "SYX"):
            raise TiffError(f"has pixels in the order {page.axes}; save it as one grey or colour image")
        array: Array = np.moveaxis(raw, -1, 0) if page.axes == "YXS" else raw.reshape(-1, *raw.shape[-2:])
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        low, high = array.min(), array.max()
        if low < 0 or high > 2**tiff.bits - 1:
            raise TiffError(f"holds values {low}..{high}; expected 8 or 16 bits")
    array = array.astype(np.uint8 if tiff.bits == 8 else np.uint16)
    if tiff.inverted:
        array = (2 ** min(tiff.depth, 16) - 1 - array).astype(array.dtype)
    kept = [i for i in range(len(array)) if i not in tiff.alpha]
    out = np.ascontiguousarray(array[kept])
    return _divided(out, array[tiff.alpha[0]]) if tiff.premultiplied else out


def _divided(colour: Array, alpha: Array) -> Array:
    """Colours as they were before they were multiplied by alpha, rounded as Pillow does."""
    top = int(np.iinfo(colour.dtype).max)
    wide = colour.astype(np.uint64) * top // np.maximum(alpha, 1)
    return np.where(alpha == 0, 0, np.minimum(wide, top)).astype(colour.dtype)


def _complete(page: Any, size: int) -> None:
    """tifffile fills absent strips and tiles with zeros; here they are an error."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.is_contiguous:
        offsets, counts = offsets[:1], (page.nbytes,)
    elif len(offsets) != math.prod(page.chunked) or len(counts) != len(offsets):
        raise TiffError(f"is damaged: it has {len(offsets)} of {math.prod(page.chunked)} strips or tiles")
    if any(n <= 0 or at <= 0 or at + n > size for at, n in zip(offsets, counts, strict=True)):
        raise TiffError("is truncated: strips or tiles are missing")
