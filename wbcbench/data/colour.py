"""Colour spaces as pseudo-modalities: one RGB image seen as three grey ones of fixed windows.

Windows are fixed for all cells and sets, so that absolute intensity stays comparable. Those of `hed` hold
99.9 % of the pixels of a May-Gruenwald-Giemsa smear (PBC, Barcelona); what lies beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Space = Literal["hed", "hsv", "lab", "rgb"]
COLOUR_VERSION = 1
"""Raised whenever the same image would give other values."""

WINDOWS: dict[Space, dict[str, tuple[float, float]]] = {
    # Ruifrok & Johnston's stain vectors as in scikit-image (optical density over -log(1e-6)). The third is DAB,
    # which blood smears do not have: there it is what haematoxylin and eosin leave unexplained.
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
"""Space -> what `convert` does, for people who have to do it elsewhere."""

_CHUNK = 256


def convert(
    images: Array, space: Space, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Array]:
    """Turn RGB [N, 3, S, S] (uint8 or uint16, whole range used) into modality -> [N, 1, S, S] uint8."""
    windows = WINDOWS[space]
    count, _, side, _ = images.shape
    out: dict[str, Array] = {name: np.empty((count, 1, side, side), np.uint8) for name in windows}
    low, high = (np.array([w[i] for w in windows.values()]) for i in (0, 1))
    for start in range(0, count, _CHUNK):  # doubles of all cells at once could fill the memory
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
