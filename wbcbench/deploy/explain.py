"""Which regions of which modality a prediction depends on: class-activation maps, computed with captum.

Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391) at the last feature map that depends on a single modality.
If there is none, as in early fusion, or it is not deep enough, as in a transformer: occlusion (Zeiler & Fergus,
ECCV 2014, arXiv 1311.2901), the drop in the class's probability when a square of the modality is hidden; of a
vector, when one of its numbers is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wbcbench.boards.text import clean, spreadsheet
from wbcbench.deploy.network import PROBABILITIES, Network, Rebuilt
from wbcbench.deploy.predict import Answers
from wbcbench.files import atomic_folder, write_synced
from wbcbench.isolation import contained

if TYPE_CHECKING:
    from PIL import Image


WINDOWS = 8
"""Positions of the hidden square along each side."""
_TINY = 1e-12


@dataclass(frozen=True)
class Explained:
    """Maps of B cells for one modality."""

    maps: NDArray[np.float32]
    """[B, S, S], or [B, F] of a vector; higher: more evidence for the predicted class. Grad-CAM is 0 or more."""
    how: str
    """`grad-cam` or `occlusion`."""


def explain(network: Network, images: dict[str, Tensor], classes: Tensor) -> dict[str, Explained]:
    """Maps of every modality for the given classes.

    Args:
        network: in eval mode, on the CPU, with parameters that require no gradient.
        images: modality -> [B, C, S, S], or [B, F] of a vector, as stored, none missing.
        classes: [B] int64, the class to explain, per cell.

    Raises:
        ImportError: captum is not installed.
    """
    from captum.attr import LayerAttribution, LayerGradCam, Occlusion

    names = network.modalities
    seen = {m: network.normaliser(m, images[m]) for m in names}
    inputs = tuple(seen[m] for m in names)
    side = next((x.shape[-1] for x in inputs if x.ndim == 4), 1)

    def probability(*xs: Tensor) -> Tensor:
        return network.answer(dict(zip(names, xs, strict=True)))[PROBABILITIES]

    def logarithm(*xs: Tensor) -> Tensor:
        return probability(*xs).clamp_min(_TINY).log()

    found: dict[str, Explained] = {}
    for m in names:
        layer = own_layer(network, seen, m)
        if layer is None:
            continue
        with torch.enable_grad():
            tracked = tuple(x.clone().requires_grad_(True) for x in inputs)
            small = LayerGradCam(logarithm, layer).attribute(tracked, target=classes, relu_attributions=True)
            large = LayerAttribution.interpolate(small, (side, side), interpolate_mode="bilinear")
        found[m] = Explained(large.detach().sum(1).numpy(), "grad-cam")
    if left := [m for m in names if m not in found]:
        # Hidden pixels and numbers get the training mean, which is zero after normalisation.
        window = max(1, side // (WINDOWS // 2))
        stride = max(1, side // WINDOWS)
        with torch.no_grad():
            drops = Occlusion(probability).attribute(
                inputs,
                sliding_window_shapes=tuple((x.shape[1], window, window) if x.ndim == 4 else (1,) for x in inputs),
                strides=tuple((x.shape[1], stride, stride) if x.ndim == 4 else (1,) for x in inputs),
                baselines=(0.0,) * len(inputs),
                target=classes,
            )
        for m, drop in zip(names, drops, strict=True):
            if m in left:
                heat = drop.detach().mean(1) if drop.ndim == 4 else drop.detach()
                found[m] = Explained(heat.numpy(), "occlusion")
    return {m: found[m] for m in names}


def own_layer(network: Network, seen: dict[str, Tensor], modality: str) -> nn.Module | None:
    """The last module whose output is a map that depends on this modality only; None if there is none.

    Found by testing from which outputs a gradient reaches which modality's image. It must come after at least two
    convolutions and run once.
    """
    mine, others = _maps(network, seen, {modality}), _maps(network, seen, set(seen) - {modality})
    depth, last = 0, None
    for module, calls in mine.items():
        own = module not in others
        depth += own and isinstance(module, nn.Conv2d)
        if own and calls == 1 and depth > 1:
            last = module
    return last


def _maps(network: Network, seen: dict[str, Tensor], which: set[str]) -> dict[nn.Module, int]:
    """Modules whose output is [B, C, H, W], H and W above 1, and depends on these modalities -> number of calls.

    In order of their last call.
    """
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1 and output.requires_grad:
            found[module] = found.pop(module, 0) + 1

    handles = [m.register_forward_hook(note) for m in network.body.modules()]
    try:
        with torch.enable_grad():
            network.answer({m: x[:1].detach().clone().requires_grad_(m in which) for m, x in seen.items()})
    finally:
        for handle in handles:
            handle.remove()
    return found


TILE = 160
"""Side of a tile, in pixels."""
_GAP, _LINE = 6, 16


def tile(image: NDArray[Any], side: int = TILE) -> Image.Image:
    """[C, S, S] to an RGB picture, scaled to its darkest and brightest pixel; two channels are red and green."""
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
    """The image with a map [S, S] over it, from transparent (0 and below) to yellow (`top`)."""
    return _coloured(np.clip(heat / top, 0, 1) if top > 0 else np.zeros_like(heat), tile(image, side))


def _coloured(share: NDArray[Any], below: Image.Image) -> Image.Image:
    """A picture with shares [H, W] over it, from transparent (0) to yellow (1)."""
    import matplotlib
    from PIL import Image

    colours = (matplotlib.colormaps["inferno"](share)[..., :3] * 255).astype(np.uint8)
    paint = Image.fromarray(colours).resize(below.size, Image.Resampling.BILINEAR)
    mask = Image.fromarray((share * 190).astype(np.uint8)).resize(below.size, Image.Resampling.BILINEAR)
    return Image.composite(paint, below, mask)


@contained()
def explain_cells(rebuilt: Rebuilt, answers: Sequence[Answers], count: int, folder: Path) -> int:
    """Write a PNG for each of a sample of cells, and `explained.csv`; returns the number of PNGs.

    The sample is evenly spaced over the cells that have every modality and a prediction, so it is not random.
    """
    places = [(a, row) for a in answers for row in np.flatnonzero(a.source.present.all(1) & a.answered).tolist()]
    if len(places) > count:
        places = [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]
    network, classes = rebuilt.network.cpu(), rebuilt.task.classes
    features = {m: s.features for m, s in rebuilt.statistics.items() if s.vector}
    numbers = [spreadsheet(f"{m}:{name}").replace('"', '""') for m, names in features.items() for name in names]
    columns = [*(f"{m}_by" for m in network.modalities), *(f'"{name}"' for name in numbers)]
    lines = ["file,source,cell,predicted,confidence," + ",".join(columns)]
    with atomic_folder(folder) as place:
        for number, (a, row) in enumerate(places, 1):
            images = a.source.read(row, row + 1)
            best = int(a.probabilities[row].argmax())
            maps = explain(network, {m: torch.from_numpy(x) for m, x in images.items()}, torch.tensor([best]))
            name = re.sub(r"[^A-Za-z0-9]+", "-", a.source.names[row]).strip("-")[-60:] or "cell"
            file = f"{number:04d}_{name}.png"
            title = f"{clean(a.source.names[row])}: {_said(a, row, classes)}"
            write_synced(place / file, _png(_sheet(title, images, maps, features)))
            drops = [f"{drop:.6f}" for m in features for drop in maps[m].maps[0]]
            how = ",".join([*(maps[m].how for m in network.modalities), *drops])
            cut = [spreadsheet(v).replace('"', '""') for v in (a.source.where, a.source.names[row], classes[best])]
            lines.append(f'{file},"{cut[0]}","{cut[1]}","{cut[2]}",{a.probabilities[row, best]:.6f},{how}')
        write_synced(place / "explained.csv", ("\n".join(lines) + "\n").encode())
    return len(places)


def _said(answers: Answers, row: int, classes: Sequence[str]) -> str:
    """The predicted class and, where it is known, the true one, with their probabilities."""
    p = answers.probabilities[row]
    best = int(p.argmax())
    text = f"predicted {clean(classes[best])} {p[best]:.2f}"
    true = answers.source.labels[row] if answers.source.labels else ""
    if not true:
        return text
    if true not in classes:
        return f"{text}, true {clean(true)} (not one of its classes)"
    return f"{text}, {'correct' if true == classes[best] else f'true {clean(true)} {p[classes.index(true)]:.2f}'}"


def _key(top: float, hows: set[str], width: int) -> Image.Image:
    """What the colours mean: a bar from no evidence to the most."""
    from PIL import Image, ImageDraw

    bar = np.tile(np.linspace(0, 1, TILE, dtype=np.float32), (_LINE - 4, 1))
    words = [f"occlusion: probability drops by {top:.2f}"] * ("occlusion" in hows)
    words += ["grad-cam: most evidence of the modality"] * ("grad-cam" in hows)
    key = Image.new("RGB", (width, len(words) * _LINE), (255, 255, 255))
    pen = ImageDraw.Draw(key)
    for line, word in enumerate(words):
        at = line * _LINE
        pen.text((_GAP, at), "0", fill=(0, 0, 0))
        key.paste(_coloured(bar, Image.new("RGB", bar.shape[::-1], (128, 128, 128))), (_GAP + 12, at + 2))
        pen.text((_GAP + 18 + TILE, at), word, fill=(0, 0, 0))
    return key


def _sheet(
    title: str,
    images: dict[str, NDArray[Any]],
    maps: dict[str, Explained],
    features: Mapping[str, tuple[str, ...]],
) -> Image.Image:
    """A picture of two rows: the modalities, and the same with their maps overlaid.

    Of a vector, the numbers that matter most, and how much the probability drops without each of them.
    """
    from PIL import Image, ImageDraw

    step = TILE + _GAP
    # One scale for all occlusion maps, which are in units of probability. Grad-CAM maps of different layers have
    # no common scale.
    top = max((float(e.maps.max()) for e in maps.values() if e.how == "occlusion"), default=0.0)
    width = max(len(images) * step, 460, 7 * len(title)) + _GAP
    key = _key(top, {e.how for m, e in maps.items() if m not in features}, width)
    sheet = Image.new("RGB", (width, 2 * step + 3 * _LINE + key.height), (255, 255, 255))
    sheet.paste(key, (0, 2 * step + 2 * _LINE + _GAP))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 2), title, fill=(0, 0, 0))
    for column, (m, image) in enumerate(images.items()):
        left, found = _GAP + column * step, maps[m]
        pen.text((left, _LINE + 2), f"{clean(m)} ({found.how})", fill=(80, 80, 80))
        if m in features:
            most = np.argsort(-np.abs(found.maps[0]), kind="stable")[: TILE // _LINE]
            for line, i in enumerate(most.tolist()):
                at = 2 * _LINE + 4 + line * _LINE
                pen.text((left, at), f"{clean(features[m][i])} {image[0, i]:.4g}", fill=(0, 0, 0))
                pen.text((left, at + step), f"{clean(features[m][i])} {found.maps[0][i]:+.3f}", fill=(0, 0, 0))
            continue
        sheet.paste(tile(image[0]), (left, 2 * _LINE + 4))
        own = top if found.how == "occlusion" else float(found.maps[0].max())
        sheet.paste(overlaid(image[0], found.maps[0], own), (left, 2 * _LINE + 4 + step))
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


__all__ = ["TILE", "Explained", "explain", "explain_cells", "overlaid", "own_layer", "tile"]
