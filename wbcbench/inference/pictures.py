"""Cells as pictures: grey or colour tiles, with or without a map laid over them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench.inference.classify import Answers
from wbcbench.inference.explain import Explained, explain
from wbcbench.inference.rebuild import Rebuilt
from wbcbench.leaderboard.text import clean, spreadsheet
from wbcbench.records.atomic import atomic_folder, write_synced

if TYPE_CHECKING:
    from PIL import Image

TILE = 160
"""Side of a tile, in pixels."""
_GAP, _LINE = 6, 16


def tile(image: NDArray[Any], side: int = TILE) -> Image.Image:
    """[C, S, S] to an RGB picture, from its darkest to its brightest pixel; two channels are red and green."""
    from PIL import Image

    x = image[:3].astype(np.float32)
    low, high = float(x.min()), float(x.max())
    x = (x - low) / max(high - low, 1.0)
    if len(x) == 1:
        x = np.repeat(x, 3, axis=0)
    elif len(x) == 2:
        x = np.concatenate([x, np.zeros_like(x[:1])])
    pixels = (x * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.NEAREST)


def overlaid(image: NDArray[Any], heat: NDArray[Any], top: float, side: int = TILE) -> Image.Image:
    """The image with a map [S, S] over it, from clear (0 and below) to yellow (`top`)."""
    import matplotlib
    from PIL import Image

    share = np.clip(heat / top, 0, 1) if top > 0 else np.zeros_like(heat)
    colours = (matplotlib.colormaps["inferno"](share)[..., :3] * 255).astype(np.uint8)
    paint = Image.fromarray(colours).resize((side, side), Image.Resampling.BILINEAR)
    mask = Image.fromarray((share * 190).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    return Image.composite(paint, tile(image, side), mask)


def explain_cells(rebuilt: Rebuilt, answers: Sequence[Answers], count: int, folder: Path) -> int:
    """Write a PNG for each of a sample of cells, and `explained.csv`; returns how many there are.

    The sample is spread evenly over the cells that have every modality and an answer, so that it does not depend
    on chance.
    """
    places = [(a, row) for a in answers for row in np.flatnonzero(a.source.present.all(1) & a.answered).tolist()]
    if len(places) > count:
        places = [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]
    network, classes = rebuilt.network.cpu(), rebuilt.task.classes
    lines = ["file,source,cell,predicted,confidence," + ",".join(f"{m}_by" for m in network.modalities)]
    with atomic_folder(folder) as place:
        for number, (a, row) in enumerate(places, 1):
            images = a.source.read(row, row + 1)
            best = int(a.probabilities[row].argmax())
            maps = explain(network, {m: torch.from_numpy(x) for m, x in images.items()}, torch.tensor([best]))
            name = re.sub(r"[^A-Za-z0-9]+", "-", a.source.names[row]).strip("-")[-60:] or "cell"
            file = f"{number:04d}_{name}.png"
            title = f"{clean(a.source.names[row])}: {clean(classes[best])} ({a.probabilities[row, best]:.2f})"
            write_synced(place / file, _png(_sheet(title, images, maps)))
            how = ",".join(maps[m].how for m in network.modalities)
            said = [
                spreadsheet(v).replace('"', '""') for v in (a.source.where, a.source.names[row], classes[best])
            ]
            lines.append(f'{file},"{said[0]}","{said[1]}","{said[2]}",{a.probabilities[row, best]:.6f},{how}')
        write_synced(place / "explained.csv", ("\n".join(lines) + "\n").encode())
    return len(places)


def _sheet(title: str, images: dict[str, NDArray[Any]], maps: dict[str, Explained]) -> Image.Image:
    """Two rows: the modalities, and the maps over them."""
    from PIL import Image, ImageDraw

    step = TILE + _GAP
    sheet = Image.new("RGB", (max(len(images) * step, 320) + _GAP, 2 * step + 3 * _LINE), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 2), title, fill=(0, 0, 0))
    # One scale for all maps of occlusion, which are in probability; Grad-CAM's of different layers have none.
    top = max((float(e.maps.max()) for e in maps.values() if e.how == "occlusion"), default=0.0)
    for column, (m, image) in enumerate(images.items()):
        left, found = _GAP + column * step, maps[m]
        pen.text((left, _LINE + 2), f"{clean(m)} ({found.how})", fill=(80, 80, 80))
        sheet.paste(tile(image[0]), (left, 2 * _LINE + 4))
        own = top if found.how == "occlusion" else float(found.maps[0].max())
        sheet.paste(overlaid(image[0], found.maps[0], own), (left, 2 * _LINE + 4 + step))
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


__all__ = ["TILE", "explain_cells", "overlaid", "tile"]
