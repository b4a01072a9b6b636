"""Decoding of one image: its header, its pixels as a square of a given size, and its colour spaces."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wbcbench.contracts.dataset import centre_square, resize_image
from wbcbench.data import tiff
from wbcbench.data.formats import sniff
from wbcbench.data.tiff import TiffError
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
DECODER_VERSION = 2
"""Increased whenever the same file would decode to other pixels; part of cache keys. Fingerprints contain the
version since which a data set's images have these pixels: see `ImageHeader.decoder`."""
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Those that Pillow decodes; JPEG 2000 is decoded too."""
_READABLE = "PNG, JPEG, TIFF, BMP, WebP or JPEG 2000"

_GREY_8 = ("1", "L", "LA", "La")
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class UndecodableError(ValueError):
    """An image that cannot be used. The text is the reason; the caller adds the image's name."""


@dataclass(frozen=True)
class ImageHeader:
    """Size and pixel type that an image decodes to."""

    width: int
    height: int
    channels: int
    """1 for grey, 3 for colour, or as many as a TIFF has that are neither; alpha is no channel."""
    bits: int
    """8 or 16."""
    decoder: int = 1
    """The decoder's version since which such an image has these pixels."""
    remarks: tuple[str, ...] = ()
    """What the file says that is applied or left out, as in `{n} images have {remark}`."""


def read_header(data: bytes) -> ImageHeader:
    """Read size and kind without decoding pixels. Raises `UndecodableError`."""
    with _decoding(), _opened(data) as picture:
        return picture.header


def decode_square(data: bytes, channels: int, side: int | None) -> Array:
    """Decode to [channels, side, side] (uint8, or uint16 for more than 8 bits), centre-cropped, antialiased.

    Args:
        data: the encoded file.
        channels: 1 (colour becomes grey), 3 (grey is repeated), or the number that the image has.
        side: None keeps the shorter side.

    Raises:
        UndecodableError: corrupt or truncated data, other channels, or more than `MAX_PIXELS`.
    """
    square = centre_square(decode_whole(data, channels))
    return resize_image(square, side) if side else square


def decode_whole(data: bytes, channels: int) -> Array:
    """Decode to [channels, height, width] without cropping or resizing; see `decode_square`.

    Samples are as stored: 10 to 16 bits become uint16 without scaling. Grey scales whose 0 is white are inverted,
    the orientation is applied, alpha is left out (after colours that it multiplied are divided by it). Colour
    profiles are not applied.
    """
    with _decoding(), _opened(data) as picture:
        if not fits(picture.header.channels, channels):
            raise UndecodableError(f"has {picture.header.channels} channels instead of {channels}")
        pixels = _turned(picture.pixels(channels == 1), picture.orientation)
    if channels == 1 and len(pixels) == 3:
        # Pillow's weights, which it has for 8 bits only
        red, green, blue = pixels.astype(np.uint64)
        pixels = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(pixels.dtype)[None]
    return np.repeat(pixels, 3, axis=0) if channels == 3 and len(pixels) == 1 else pixels


def fits(has: int, wanted: int) -> bool:
    """Whether an image of `has` channels can be decoded to `wanted`: grey and colour become each other."""
    return has == wanted or {has, wanted} <= {1, 3}


@dataclass(frozen=True)
class _Picture:
    """An opened image."""

    header: ImageHeader
    pixels: Callable[[bool], Array]
    """Decodes to [C, H, W] of the header's channels, or to grey where the decoder can do that itself."""
    orientation: int
    """As in EXIF: 1 is upright."""


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except UndecodableError:
        raise
    except TiffError as error:
        raise UndecodableError(str(error)) from error
    except Exception as error:  # decoders raise almost any exception on corrupt data
        raise UndecodableError(f"cannot be decoded ({str(error) or type(error).__name__})") from error


@contextmanager
def _opened(data: bytes) -> Iterator[_Picture]:
    if not data:
        raise UndecodableError("is empty (0 bytes)")
    if data.startswith(_JPEG_2000):
        yield _jpeg_2000(data)
    elif data.startswith(tiff.MAGIC):
        with _tiff(data) as picture:
            yield picture
    else:
        with _by_pillow(data) as image:
            yield _picture(image, data)


@contextmanager
def _by_pillow(data: bytes) -> Iterator[Any]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes, which are checked here, and about unusual metadata
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UndecodableError(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
        except Exception as error:
            what = sniff(data)
            found = f"{what.name}, which is" if what else ""
            raise UndecodableError(f"is {found} not a readable {_READABLE}".replace("  ", " ")) from error
        with image:
            yield image


def _picture(image: Any, data: bytes) -> _Picture:
    """What Pillow reads, except PNG of 16-bit colour, of which it would drop 8."""
    # A phone's JPEG may contain previews after the picture (MPO): the first frame is the picture.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    orientation = _exif_orientation(image.info.get("exif"))
    alpha = image.mode in _ALPHA or "transparency" in image.info
    profile = image.info.get("icc_profile")
    width, height = image.size
    if image.format == "PNG" and data[24:25] == b"\x10" and data[25] & ~1:  # 16 bits, colour or alpha
        channels = 3 if data[25] & 2 else 1
        header = _header(
            width, height, channels, 16, frames, since=2, alpha=alpha, orientation=orientation, profile=profile
        )
        return _Picture(header, lambda grey: _wide_png(data, channels), orientation)
    channels, bits = _kind(image.mode)
    since = 1 if orientation == 1 else 2  # it was applied to TIFF only
    header = _header(
        width, height, channels, bits, frames, since=since, alpha=alpha, orientation=orientation, profile=profile
    )
    return _Picture(header, lambda grey: _pillow_pixels(image, header, grey), orientation)


def _kind(mode: str) -> tuple[int, int]:
    if mode in _GREY_16:
        return 1, 16
    if mode in _GREY_8:
        return 1, 8
    if mode in _COLOUR:
        return 3, 8
    raise UndecodableError(f"has pixels of mode {mode}; save it with 8 or 16 bits")


def _header(
    width: int, height: int, channels: int, bits: int, frames: int, *, since: int, alpha: bool, orientation: int,
    profile: bytes | None,
) -> ImageHeader:  # fmt: skip
    """Check an image's size and describe it."""
    if min(width, height, channels) < 1:
        raise UndecodableError(f"has no pixels ({width} x {height}, {channels} channels)")
    if width * height > MAX_PIXELS or width * height * channels > 4 * MAX_PIXELS:
        by = f" x {channels}" if channels > 4 else ""
        raise UndecodableError(
            f"has {width} x {height}{by} pixels; at most {MAX_PIXELS // 1_000_000} million are read"
        )
    if frames > 1:
        raise UndecodableError(f"holds {frames} frames; save the one to use as a separate file")
    remarks = []
    if alpha:
        remarks.append("an alpha channel, which is not read")
    if orientation != 1:
        remarks.append("an orientation, which is applied")
    if profile and b"sRGB" not in profile:
        remarks.append("a colour profile other than sRGB, which is not applied")
    if orientation > 4:
        width, height = height, width
    return ImageHeader(width, height, channels, bits, since, tuple(remarks))


def _pillow_pixels(image: Any, header: ImageHeader, grey: bool) -> Array:
    if header.bits == 16:
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise UndecodableError(f"holds values {wide.min()}..{wide.max()}; expected 8 or 16 bits")
        return wide.astype(np.uint16)[None]
    if header.channels == 1 or grey:
        return np.asarray(image.convert("L"))[None]
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _wide_png(data: bytes, channels: int) -> Array:
    import imagecodecs

    decoded: Array = imagecodecs.png_decode(data)
    return np.ascontiguousarray(np.moveaxis(decoded[..., :channels], -1, 0))


@contextmanager
def _tiff(data: bytes) -> Iterator[_Picture]:
    try:
        found = tiff.examine(data)
    except (TiffError, MemoryError):
        raise
    except Exception as error:
        raise UndecodableError(f"is not a readable {_READABLE} ({str(error) or type(error).__name__})") from error
    colour_16 = found.bits == 16 and (found.channels > 1 or found.inverted or bool(found.alpha))
    header = _header(
        found.width, found.height, found.channels, found.bits, found.pages,
        since=2 if colour_16 or found.channels not in (1, 3) else 1,
        alpha=bool(found.alpha), orientation=found.orientation, profile=found.profile,
    )  # fmt: skip
    if not found.converted:
        yield _Picture(header, lambda grey: tiff.pixels(data, found), found.orientation)
        return
    with _by_pillow(data) as image:
        if _kind(image.mode) != (found.channels, found.bits):
            raise UndecodableError(f"has pixels of mode {image.mode}, unlike its tags; save it as grey or RGB")
        # Pillow turns a TIFF itself
        yield _Picture(header, lambda grey: _pillow_pixels(image, header, grey), 1)


_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def _jpeg_2000(data: bytes) -> _Picture:
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 43:
        raise UndecodableError("is a JPEG 2000 file without an image")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    kinds = set(data[start + 42 : start + 42 + 3 * samples : 3])
    depths = {(kind & 0x7F) + 1 for kind in kinds}
    if any(kind & 0x80 for kind in kinds) or max(depths, default=17) > 16:
        raise UndecodableError("has signed samples, or more than 16 bits; save it with 8 or 16 bits")
    alpha = _jpeg_2000_alpha(data[:start])
    kept = [i for i in range(samples) if i not in alpha]
    header = _header(
        right - left, bottom - top, len(kept), 8 if max(depths) <= 8 else 16, 1,
        since=2, alpha=bool(alpha), orientation=1, profile=None,
    )  # fmt: skip

    def pixels(grey: bool) -> Array:
        import imagecodecs

        decoded: Array = imagecodecs.jpeg2k_decode(data)
        planes = decoded[None] if decoded.ndim == 2 else np.moveaxis(decoded, -1, 0)
        if planes.shape != (samples, header.height, header.width):
            raise UndecodableError(f"decodes to {list(planes.shape)}; save it as grey or RGB")
        return np.ascontiguousarray(planes[kept])

    return _Picture(header, pixels, 1)


def _jpeg_2000_alpha(boxes: bytes) -> list[int]:
    """The samples that the box `cdef` defines as opacity."""
    at = boxes.find(b"cdef")
    if at < 0 or len(boxes) < at + 6:
        return []
    (count,) = struct.unpack_from(">H", boxes, at + 4)
    entries = struct.iter_unpack(">3H", boxes[at + 6 : at + 6 + 6 * count])
    return [channel for channel, kind, _ in entries if kind in (1, 2)]


def _exif_orientation(exif: bytes | None) -> int:
    if not exif:
        return 1
    from PIL import Image

    found = Image.Exif()
    try:
        found.load(exif)
        orientation = found.get(0x0112, 1)
    except Exception:  # damaged metadata around a good picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turned(pixels: Array, orientation: int) -> Array:
    """[C, H, W] upright, given its EXIF orientation."""
    if orientation > 4:
        pixels = pixels.transpose(0, 2, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels if orientation == 1 else np.ascontiguousarray(pixels)


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
