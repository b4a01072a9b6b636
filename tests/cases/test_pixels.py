"""Pixels are as the file has them: depth, channels, alpha, grey scale, layout, orientation."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from wbcbench_plugins.datasets.folder import Folder

from wbcbench.contracts.dataset import Array
from wbcbench.data.decode import DECODER_VERSION, MAX_PIXELS, UndecodableError, decode_whole, read_header

Invoke = Callable[..., tuple[int, str, str]]
RANDOM = np.random.default_rng(0)
WIDE = RANDOM.integers(0, 65536, (37, 41, 4)).astype(np.uint16)
TEN = WIDE >> 6
NARROW = (WIDE >> 8).astype(np.uint8)
GREYS = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
PREMULTIPLIED = np.concatenate([NARROW[..., :3] // 2, np.full((37, 41, 1), 128, np.uint8)], axis=2)


def tiff(pixels: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def png(pixels: Array, **options: Any) -> bytes:
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), **options))


def jpeg_2000(pixels: Array, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(pixels), **options))


def pillow(pixels: Array, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def first(pixels: Array) -> Array:
    """[H, W, C] or [H, W] as decoded."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pillow(NARROW[..., :3], "PNG", exif=exif.tobytes())


GREY: dict[str, Any] = {"photometric": "minisblack"}
RGB: dict[str, Any] = {"photometric": "rgb"}
AS_STORED: dict[str, tuple[bytes, Array]] = {
    "rgb16 tiff": (tiff(WIDE[..., :3], **RGB), WIDE[..., :3]),
    "rgb16 png": (png(WIDE[..., :3]), WIDE[..., :3]),
    "rgba16 png": (png(WIDE), WIDE[..., :3]),
    "grey16 and alpha png": (png(WIDE[..., :2]), WIDE[..., 0]),
    "rgb of 10 bits": (tiff(TEN[..., :3], **RGB), TEN[..., :3]),
    "rgb16 jpeg 2000": (jpeg_2000(WIDE[..., :3], level=0, reversible=True), WIDE[..., :3]),
    "grey16 jpeg 2000": (jpeg_2000(WIDE[..., 0], level=0, reversible=True), WIDE[..., 0]),
    "rgb8 webp": (pillow(NARROW[..., :3], "WEBP", lossless=True), NARROW[..., :3]),
    "packed 12 bits": (tiff(WIDE[..., 0] >> 4, bitspersample=12, **GREY), WIDE[..., 0] >> 4),
    "grey16, 0 is white": (tiff(WIDE[..., 0], photometric="miniswhite"), 65535 - WIDE[..., 0]),
    "grey8, 0 is white": (tiff(NARROW[..., 0], photometric="miniswhite"), 255 - NARROW[..., 0]),
    "4 channels, no alpha": (tiff(NARROW, extrasamples=["unspecified"], **RGB), NARROW),
    "4 channels of 16 bits": (tiff(WIDE, extrasamples=["unspecified"], **RGB), WIDE),
    "2 channels": (tiff(NARROW[..., :2], planarconfig="contig", **GREY), NARROW[..., :2]),
    "2 planes": (tiff(np.moveaxis(NARROW[..., :2], -1, 0), planarconfig="separate", **GREY), NARROW[..., :2]),
    "rgb8 and alpha": (tiff(NARROW, extrasamples=["unassalpha"], **RGB), NARROW[..., :3]),
    "grey8 and alpha in planes": (
        tiff(np.moveaxis(NARROW[..., :2], -1, 0), extrasamples=["unassalpha"], planarconfig="separate", **GREY),
        NARROW[..., 0],
    ),
    "multiplied by alpha": (
        tiff(PREMULTIPLIED, extrasamples=["assocalpha"], **RGB), PREMULTIPLIED[..., :3].astype(int) * 255 // 128
    ),
    "turned right": (turned(6), np.rot90(NARROW[..., :3], -1)),
    "turned left": (turned(8), np.rot90(NARROW[..., :3])),
    "upside down": (turned(3), np.rot90(NARROW[..., :3], 2)),
    "mirrored": (turned(2), NARROW[:, ::-1, :3]),
    "transposed": (turned(5), NARROW[..., :3].swapaxes(0, 1)),
    "turned palette tiff": (
        tiff(NARROW[..., 0], photometric="palette", colormap=GREYS,
             extratags=[(274, 3, 1, 6, True)]),
        np.repeat(np.rot90(NARROW[..., 0], -1)[..., None], 3, axis=2),
    ),
    "turned tiff": (tiff(WIDE[..., 0], extratags=[(274, 3, 1, 6, True)], **GREY), np.rot90(WIDE[..., 0], -1)),
}  # fmt: skip


UNCHANGED = {
    "grey8": tiff(NARROW[..., 0], **GREY), "grey16": tiff(WIDE[..., 0], **GREY),
    "rgb8": tiff(NARROW[..., :3], **RGB), "rgba8": pillow(NARROW, "PNG"),
    "jpeg": pillow(NARROW[..., :3], "JPEG"), "bmp": pillow(NARROW[..., :3], "BMP"),
    "turned tiff": AS_STORED["turned tiff"][0], "jpeg in tiff": tiff(NARROW[..., :3], compression="jpeg", **RGB),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_was_read_right_keeps_its_fingerprint(name: str) -> None:
    assert read_header(UNCHANGED[name]).decoder == 1


@pytest.mark.parametrize("name", ["rgb16 tiff", "rgb16 png", "4 channels, no alpha", "2 channels", "turned right"])
def test_what_was_read_wrong_gets_another(name: str) -> None:
    assert read_header(AS_STORED[name][0]).decoder == DECODER_VERSION


@pytest.mark.parametrize("name", AS_STORED)
def test_pixels_are_those_of_the_file(name: str) -> None:
    data, expected = AS_STORED[name]
    header = read_header(data)
    pixels = decode_whole(data, header.channels)
    np.testing.assert_array_equal(pixels, first(expected))
    assert pixels.dtype == (np.uint16 if header.bits == 16 else np.uint8)
    assert (header.channels, header.height, header.width) == pixels.shape


@pytest.mark.parametrize("pixels", [NARROW[..., 0], NARROW[..., :3], WIDE[..., 0], WIDE[..., :3]],
                         ids=["grey8", "rgb8", "grey16", "rgb16"])  # fmt: skip
def test_one_picture_stored_in_many_ways_is_one_array(pixels: Array) -> None:
    kind = GREY if pixels.ndim == 2 else RGB
    stored = [png(pixels), png(pixels, level=0)]
    for compression in (None, "lzw", "zlib", "packbits", "zstd"):
        for layout in ({}, {"tile": (16, 16)}, {"rowsperstrip": 7}):
            for order in "<>":
                options = kind | layout | {"compression": compression, "byteorder": order}
                stored += [tiff(pixels, **options), tiff(pixels, bigtiff=True, **options)]
                if compression not in (None, "packbits"):
                    stored.append(tiff(pixels, predictor=True, **options))
                if pixels.ndim == 3:
                    stored.append(tiff(np.moveaxis(pixels, -1, 0), planarconfig="separate", **options))
    for data in stored:
        np.testing.assert_array_equal(decode_whole(data, read_header(data).channels), first(pixels))


def test_sixteen_bit_colour_becomes_grey_with_the_weights_of_eight() -> None:
    grey = decode_whole(tiff(NARROW[..., :3].astype(np.uint16) * 257, **RGB), 1)
    np.testing.assert_allclose(grey / 257, decode_whole(tiff(NARROW[..., :3], **RGB), 1), atol=0.51)


def chunked(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header claims a size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found = file.pages[0].tags[tag]
    return data[: found.offset + 8] + struct.pack("<I", value) + data[found.offset + 12 :]


LZW = tiff(WIDE[..., :3], compression="lzw", **RGB)
PNG = bytearray(png(WIDE[..., :3]))
PNG[len(PNG) // 2] ^= 255
REFUSED: dict[str, tuple[bytes, str]] = {
    "float": (tiff(WIDE[..., 0].astype(np.float32), **GREY), "32-bit floating point .* 8 or 16 bits"),
    "32 bits": (tiff(WIDE[..., 0].astype(np.uint32) * 9, **GREY), "expected 8 or 16 bits"),
    "64 bits": (tiff(WIDE[..., 0].astype(np.uint64), **GREY), "64 bits"),
    "negative": (tiff(-NARROW[..., 0].astype(np.int16), **GREY), "expected 8 or 16 bits"),
    "pages": (tiff(np.stack([NARROW[..., 0]] * 3), **GREY), "3 frames"),
    "cmyk of 16 bits": (tiff(WIDE, photometric="separated"), "CMYK .* save it as grey or RGB"),
    "cut tiff": (LZW[: len(LZW) // 2], "truncated|cannot|readable"),
    "cut plain tiff": (tiff(WIDE[..., :3], **RGB)[:-100], "truncated"),
    "damaged lzw": (LZW[:-400] + b"\0" * 400, "cannot be decoded"),
    "wrong checksum": (bytes(PNG), "cannot be decoded"),
    "huge png": (chunked(60_000, 60_000), "million"),
    "huge tiff": (tagged(tagged(tiff(NARROW[..., :3], **RGB), 256, 50_000), 257, 50_000), "million"),
    "many samples": (tagged(tagged(tiff(NARROW[..., 0], **GREY), 277, 60_000), 257, 6_000), "million|samples"),
    "no width": (tagged(tiff(NARROW[..., 0], **GREY), 256, 0), "no pixels|readable"),
    "empty png": (chunked(50, 50), "cannot be decoded"),
    "jpeg 2000 header only": (jpeg_2000(NARROW[..., 0])[:120], "cannot be decoded|without"),
    "gif": (pillow(NARROW[..., 0], "GIF"), "is a GIF, which is not a readable PNG, JPEG, TIFF, BMP, WebP"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, which"),
    "text": (b"label,image\n", "is not a readable"),
    "nothing": (b"", "0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(name: str) -> None:
    data, says = REFUSED[name]
    with pytest.raises(UndecodableError, match=says):
        decode_whole(data, read_header(data).channels)


def test_a_large_picture_within_the_limit_is_not_taken_for_a_bomb() -> None:
    side = int(MAX_PIXELS**0.5)
    assert read_header(chunked(side, side)).bits == 16


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def scenes(store: Callable[[Array], bytes], count: int = 12) -> dict[str, bytes]:
    """Two classes of images [20, 20, 4] of 10 bits that differ in the last channel only."""
    out = {}
    for i in range(count):
        for k, name in enumerate("ab"):
            pixels = RANDOM.integers(0, 90, (20, 20, 4)).astype(np.uint16)
            pixels[5:15, 5:15, 3] += 600 * k
            out[f"{name}/{i}.tif"] = store(pixels)
    return out


def test_case_06_colour_of_ten_bits_is_kept(invoke: Invoke, tmp_path: Path) -> None:
    cells = folder(tmp_path / "rgb16", scenes(lambda pixels: tiff(pixels[..., 1:], **RGB)))
    code, out, _ = invoke("data", "inspect", str(cells))
    assert code == 0
    assert "uint16" in out
    assert "copies: none" in out
    code, out, _ = invoke("data", "import", str(cells), "-o", str(tmp_path / "in"))
    assert code == 0
    assert "24 cells imported, 0 dropped" in out


@pytest.mark.parametrize("channels", [2, 4])
def test_case_07_channels_that_are_no_alpha_are_read(channels: int, invoke: Invoke, tmp_path: Path) -> None:
    options = {**(RGB if channels == 4 else GREY), "planarconfig": "contig", "extrasamples": ["unspecified"]}
    made = scenes(lambda pixels: tiff(pixels[..., 4 - channels :], **options))
    code, out, _ = invoke("data", "import", str(folder(tmp_path / "cells", made)), "-o", str(tmp_path / "in"))
    assert code == 0, out
    cells = Folder(Folder.Params(path=str(tmp_path / "in"))).load()
    assert cells.images["image"].shape == (24, channels, 20, 20)
    row = cells.ids.index("b/3.tif")  # type: ignore[union-attr]
    np.testing.assert_array_equal(cells.images["image"][row], decode_whole(made["b/3.tif"], channels))
    code, _, err = invoke(
        "run", "--config", str(tmp_path / "in" / "dataset.yaml"), "--epochs", "1", "--fusion", "early",
        "--kd", "none", "--backbone", "cellnet:width=4", "--device", "cpu", "--set", "threads=1",
        "--store", str(tmp_path / "store"),
    )  # fmt: skip
    assert code == 0, err


def test_files_of_other_channels_are_refused_together(invoke: Invoke, tmp_path: Path) -> None:
    files = scenes(lambda pixels: tiff(pixels, extrasamples=["unspecified"], **RGB))
    files |= {"a/0.tif": tiff(TEN[:20, :20, :3], **RGB)}
    rows = "".join(f"{name[0]},{name}\n" for name in files)
    root = folder(tmp_path, files | {"manifest.csv": f"label,image\n{rows}".encode()})
    code, _, err = invoke("run", "--dataset", "folder", "--set", f"dataset.path={root}", "--dry-run")
    assert code == 2
    assert "same channels" in err


def test_alpha_orientation_and_profile_are_named(invoke: Invoke, tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(RANDOM.integers(0, 255, (9, 9, 4)).astype(np.uint8))
             for i in range(6) for name in "ab"}  # fmt: skip
    _, out, _ = invoke("data", "inspect", str(folder(tmp_path, files)))
    assert "note: 12 images have an alpha channel, which is not read." in out
    profile = pillow(NARROW[..., :3], "PNG", icc_profile=b"Adobe RGB" * 20)
    assert read_header(profile).remarks == ("a colour profile other than sRGB, which is not applied",)
    assert read_header(turned(6)).remarks == ("an orientation, which is applied",)
