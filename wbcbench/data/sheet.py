"""A contact sheet: a few cells of every class in every modality, on one PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Cells
from wbcbench.files import atomic_write_bytes

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

TILE = 96
"""Side of a cell on the sheet, in pixels."""
GAP = 4
PAPER, INK, ABSENT = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def contact_sheet(cells: Cells, path: Path, per_class: int = 8) -> None:
    """Write a PNG of the first `per_class` cells of each class: a row per class and modality.

    8-bit images keep their grey levels; 16-bit modalities are stretched from their 0.1 to 99.9 percentile,
    with one range for the whole sheet. Three channels are shown as red, green, blue; two as red and green; of
    more than three the first three are shown. A missing image is a crossed-out box.

    Raises:
        ValueError: `per_class` is less than 1.
        WbcbenchError: the file cannot be written. No partial file is left.
    """
    if per_class < 1:
        raise ValueError(f"Expected at least one cell per class, but got per_class={per_class}.")
    from PIL import Image, ImageDraw

    picked = [np.flatnonzero(cells.labels == c)[:per_class] for c in range(len(cells.classes))]
    columns = max(len(rows) for rows in picked)
    lines = [(c, m) for c in range(len(cells.classes)) for m in cells.images]
    margin = _margin([f"{cells.classes[c]} / {m}" for c, m in lines])
    size = (margin + columns * (TILE + GAP) + GAP, len(lines) * (TILE + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    ranges = {m: _grey_range(a, np.concatenate(picked)) for m, a in cells.images.items()}
    names = list(cells.images)
    for line, (c, m) in enumerate(lines):
        top = GAP + line * (TILE + GAP)
        pen.text((GAP, top + TILE // 2 - 6), f"{cells.classes[c]} / {m}", fill=INK)
        for column, row in enumerate(picked[c]):
            left = margin + GAP + column * (TILE + GAP)
            if cells.present is not None and not cells.present[row, names.index(m)]:
                _cross_out(pen, left, top)
            else:
                sheet.paste(_tile(cells.images[m][row], *ranges[m]), (left, top))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write_bytes(Path(path), buffer.getvalue())


def _margin(labels: list[str]) -> int:
    from PIL import ImageFont

    font = ImageFont.load_default()
    return 2 * GAP + max(int(font.getbbox(text)[2]) for text in labels)


def _grey_range(images: NDArray[Any], rows: NDArray[np.int64]) -> tuple[float, float]:
    """Grey levels shown as black and as white."""
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = np.percentile(images[rows], (0.1, 99.9))
    return float(low), float(max(high, low + 1))


def _tile(image: NDArray[Any], low: float, high: float) -> Image.Image:
    """[C, S, S] to an RGB tile."""
    from PIL import Image

    grey = ((image[:3].astype(np.float32) - low) / (high - low)).clip(0, 1)
    if len(grey) == 1:
        grey = np.repeat(grey, 3, axis=0)
    elif len(grey) == 2:
        grey = np.concatenate([grey, np.zeros_like(grey[:1])])
    pixels = (grey * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    # nearest neighbour keeps the pixels of small images visible
    how = Image.Resampling.NEAREST if TILE % image.shape[1] == 0 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), how)


def _cross_out(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    right, bottom = left + TILE - 1, top + TILE - 1
    pen.rectangle((left, top, right, bottom), outline=ABSENT)
    pen.line((left, top, right, bottom), fill=ABSENT)
    pen.line((left, bottom, right, top), fill=ABSENT)
