"""Draws leukocytes: a look (class) per modality and cell in, images out. Knows nothing of labels.

Lengths are in half sides: the image spans -1 .. 1. Blobs are sums of Gaussians, which factor into rows
times columns, so that a chunk of cells is a handful of batched matrix products. What is random about a
cell is drawn once, whatever its look: modalities that show the same class show the same cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Progress

Float = NDArray[np.float32]
Int = NDArray[np.int64]

# Looks in the order of `CLASSES`: neutrophil, lymphocyte, monocyte, eosinophil, basophil.
LOBES = np.array([4, 1, 5, 2, 1])
LOBE_RADIUS = np.array([0.155, 0.36, 0.20, 0.215, 0.35])
LOBE_DISTANCE = np.array([0.29, 0.0, 0.25, 0.25, 0.0])
LOBE_ARC = np.array([5.2, 0.0, 3.6, 2 * np.pi, 0.0])
"""Angle over which the lobes are spread: a chain, one ball, a horseshoe, two opposite, one ball."""
HOLES = np.array([0, 0, 0, 0, 5])
GRANULES = np.array([56.0, 4.0, 15.0, 34.0, 13.0])
GRANULE_RADIUS = np.array([0.033, 0.085, 0.036, 0.070, 0.100])
CELL_RADIUS = np.array([0.63, 0.50, 0.78, 0.66, 0.60])
MEAN_RADIUS = 0.63

# Optical densities of red, green, blue.
CYTOPLASM = np.array(
    [[.16, .22, .10], [.42, .30, .10], [.30, .28, .15], [.14, .28, .18], [.24, .30, .12]]
)  # fmt: skip
STAINED_GRANULE = np.array(
    [[.15, .38, .15], [.5, .75, .2], [.3, .45, .15], [.05, .62, .70], [.75, 1., .3]]
)  # fmt: skip
CHROMATIN = np.array([0.95, 1.35, 0.42])
RED_CELL = np.array([0.07, 0.42, 0.34])

MAX_LOBES, MAX_HOLES, MAX_GRANULES, MAX_RED = 5, 5, 90, 5


@dataclass(frozen=True)
class Person:
    """Properties of a cell that do not depend on its look; arrays [n, ...], drawn before looks are applied."""

    centre: Float
    angle: Float
    scale: Float
    outline: Float
    lobe_noise: Float
    hole_place: Float
    granule_place: Float
    granule_noise: Float
    count_noise: Float
    red_cells: Float
    chromatin: Float
    blur: Float
    light: Float
    gain: Float

    @classmethod
    def draw(cls, n: int, difficulty: float, rng: np.random.Generator) -> Person:
        def normal(*shape: int) -> Float:
            return rng.standard_normal((n, *shape), dtype=np.float32)

        def uniform(*shape: int) -> Float:
            return rng.random((n, *shape), dtype=np.float32)

        return cls(
            centre=np.float32(0.06) * normal(2).clip(-2, 2), angle=2 * np.pi * uniform(),
            scale=np.exp((0.03 + 0.06 * difficulty) * normal().clip(-2, 2)), outline=normal(4),
            lobe_noise=normal(MAX_LOBES, 3), hole_place=uniform(MAX_HOLES, 2),
            granule_place=uniform(MAX_GRANULES, 2), granule_noise=normal(MAX_GRANULES, 2),
            count_noise=normal(3), red_cells=uniform(MAX_RED, 4), chromatin=normal(13, 13),
            blur=0.012 + 0.05 * difficulty * uniform(), light=normal(2), gain=np.exp(0.18 * normal(2)),
        )  # fmt: skip


def render(
    looks: dict[str, Int],
    donors: Int,
    side: int,
    seed: int,
    noise: float,
    difficulty: float,
    progress: Progress | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Render N cells.

    Args:
        looks: 'brightfield', 'nucleus', 'granule' -> [N] classes 0 .. 4 to draw.
        donors: [N], each with its own stain and illumination.
        side: pixels.
        seed: of everything drawn here.
        noise, difficulty: 0 .. 1.
        progress: called after every chunk.

    Returns:
        The same keys -> uint8 [N, 3 or 1, side, side].
    """
    n = len(donors)
    out = {m: np.empty((n, 3 if m == "brightfield" else 1, side, side), np.uint8) for m in looks}
    stains = np.random.default_rng([seed, 1]).standard_normal((int(donors.max()) + 1, 4, 3)).astype(np.float32)
    # the chunk depends on the side alone, for it decides which random numbers a cell gets
    chunk = max(8, min(256, 128 * 64 * 64 // (side * side)))
    for start in range(0, n, chunk):
        stop = min(n, start + chunk)
        rng = np.random.default_rng([seed, 2, start])
        person = Person.draw(stop - start, difficulty, rng)
        canvas = Canvas(person, side, difficulty)
        look = {m: x[start:stop] for m, x in looks.items()}
        drawn = {
            "brightfield": canvas.brightfield(look["brightfield"], stains[donors[start:stop]]),
            "nucleus": canvas.nucleus(look["nucleus"]),
            "granule": canvas.granule(look["granule"]),
        }
        for m, image in drawn.items():
            grain = 0.02 if m == "brightfield" else 0.08 * np.sqrt(image + 0.1)
            image = image + noise * grain * rng.standard_normal(image.shape, dtype=np.float32)
            out[m][start:stop] = (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        if progress is not None:
            progress(stop, n, "cells rendered")
    return out


class Canvas:
    """The pixels of a chunk of cells; every method gives float32 images in about 0 .. 1."""

    def __init__(self, person: Person, side: int, difficulty: float) -> None:
        self.p, self.side = person, side
        self.spread = 0.05 + 0.16 * difficulty
        self.axis = ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1).astype(np.float32)
        y = self.axis[None, :, None] - person.centre[:, 0, None, None]
        x = self.axis[None, None, :] - person.centre[:, 1, None, None]
        self.distance = np.sqrt(x * x + y * y)
        theta = np.arctan2(y, x)
        w = (0.035 * person.outline)[:, :, None, None]
        self.wobble = 1 + w[:, 0] * np.cos(2 * theta) + w[:, 1] * np.sin(2 * theta)
        self.wobble += w[:, 2] * np.cos(3 * theta) + w[:, 3] * np.sin(3 * theta)
        self.texture = self._chromatin()
        away = (self.axis[:, None] - self.axis[None, :]) ** 2
        kernel = np.exp(-away[None] / (2 * person.blur[:, None, None] ** 2)) + 1e-9
        self.kernel = kernel / kernel.sum(axis=2, keepdims=True)

    def brightfield(self, look: Int, stain: Float) -> Float:
        """[n] looks, [n, 4, 3] standard normal donor stains -> [n, 3, S, S] light through a smear."""
        body, nucleus = self._body(CELL_RADIUS[look]), self._nucleus_mask(look)
        dots = self._dots(look, CELL_RADIUS[look]) * body
        red = self._red_cells() * (1 - body)
        stain = stain * np.array([0.10, 0.10, 0.10, 0.03], np.float32)[:, None]
        tint = np.exp(stain[:, :3])

        def density(mask: Float, colour: NDArray[Any], which: int) -> Float:
            rgb = (np.broadcast_to(colour, (len(look), 3)) * tint[:, which]).astype(np.float32)
            return mask[:, None] * rgb[:, :, None, None]

        bare = body * (1 - nucleus)
        # only basophils hide their nucleus under granules
        over = np.where(look == 4, 0.7, 0.0).astype(np.float32)[:, None, None]
        total = density(nucleus * (1 + 0.3 * self.texture), CHROMATIN, 0)
        total += density(bare * (1 + 0.15 * self.texture), CYTOPLASM[look], 1)
        total += density(dots * (bare + over * nucleus), STAINED_GRANULE[look], 0)
        total += density(red, RED_CELL, 2)
        tilt = self.p.light[:, 0, None, None] * self.axis[:, None] + self.p.light[:, 1, None, None] * self.axis
        lamp = 0.92 * np.exp(stain[:, 3] - 0.02)[:, :, None, None] * (1 + 0.02 * tilt[:, None])
        return self._blur(lamp * np.exp(-total))

    def nucleus(self, look: Int) -> Float:
        """[n] looks -> [n, 1, S, S] fluorescence of DNA."""
        mask = self._nucleus_mask(look) * (1 + 0.3 * self.texture)
        haze = 0.05 + 0.06 * self._body(np.full(len(look), MEAN_RADIUS))
        return self._blur((haze + 0.55 * self.p.gain[:, 0, None, None] * mask)[:, None])

    def granule(self, look: Int) -> Float:
        """[n] looks -> [n, 1, S, S] fluorescence of granules; the cell's size does not depend on the look."""
        radius = np.full(len(look), MEAN_RADIUS)
        haze = 0.05 + 0.10 * self._body(radius) * (1 + 0.2 * self.texture)
        return self._blur((haze + 0.62 * self.p.gain[:, 1, None, None] * self._dots(look, radius))[:, None])

    def _body(self, radius: NDArray[Any]) -> Float:
        r = (radius * self.p.scale)[:, None, None].astype(np.float32)
        return _sigmoid((r * self.wobble - self.distance) / 0.02)

    def _nucleus_mask(self, look: Int) -> Float:
        p, k = self.p, np.arange(MAX_LOBES)
        count = LOBES[look][:, None]
        gap = LOBE_ARC[look][:, None] / np.where(look == 3, 2, np.maximum(count[:, 0] - 1, 1))[:, None]
        theta = p.angle[:, None] + k * gap + self.spread * p.lobe_noise[:, :, 0]
        reach = (LOBE_DISTANCE[look] * p.scale)[:, None] * np.exp(self.spread * p.lobe_noise[:, :, 1])
        radius = (LOBE_RADIUS[look] * p.scale)[:, None] * np.exp(self.spread * p.lobe_noise[:, :, 2])
        field = self._gaussians(reach, theta, radius / 1.177, (k < count).astype(np.float32))
        # holes where granules lie over the nucleus
        h = np.arange(MAX_HOLES) < HOLES[look][:, None]
        spots = 0.30 * np.sqrt(p.hole_place[:, :, 0])
        turn = p.angle[:, None] + 2 * np.pi * (p.hole_place[:, :, 1] + np.arange(MAX_HOLES)) / MAX_HOLES
        field -= self._gaussians(spots, turn, np.full_like(spots, 0.06), 0.9 * h)
        return _sigmoid(22 * (field - 0.5))

    def _dots(self, look: Int, cell_radius: NDArray[Any]) -> Float:
        p = self.p
        count = GRANULES[look] * np.exp(1.6 * self.spread * p.count_noise[:, 0])
        shown = np.arange(MAX_GRANULES) < np.maximum(2, np.rint(count))[:, None]
        size = GRANULE_RADIUS[look] * np.exp(self.spread * p.count_noise[:, 1])
        radius = size[:, None] * np.exp(0.12 * p.granule_noise[:, :, 0])
        reach = (0.86 * cell_radius * p.scale)[:, None] * np.sqrt(p.granule_place[:, :, 0])
        weight = shown * np.exp(0.25 * p.granule_noise[:, :, 1])
        turn = 2 * np.pi * p.granule_place[:, :, 1]
        field = self._gaussians(reach, turn, np.maximum(radius, 0.6 / self.side), weight)
        blob: Float = 1 - np.exp(-1.5 * field * field)
        return blob

    def _red_cells(self) -> Float:
        """Biconcave discs around the cell: a rim and a pale middle."""
        out: Float = np.zeros_like(self.distance)
        for u in self.p.red_cells.transpose(1, 0, 2):
            far, turn, size = 0.98 + 0.5 * u[:, 0], 2 * np.pi * u[:, 1], 0.27 + 0.05 * u[:, 2]
            y = self.axis[None, :, None] - (self.p.centre[:, 0] + far * np.sin(turn))[:, None, None]
            x = self.axis[None, None, :] - (self.p.centre[:, 1] + far * np.cos(turn))[:, None, None]
            q = (x * x + y * y) / (size * size)[:, None, None]
            disc = _sigmoid(12 * (1 - q)) * (1 - 0.55 * np.exp(-3.5 * q)) * (u[:, 3] < 0.75)[:, None, None]
            np.maximum(out, disc, out=out)
        return out

    def _gaussians(self, reach: Any, theta: Any, sigma: Any, weight: Any) -> Float:
        """Sum of K Gaussians per cell, [n, K] polar positions around the centre -> [n, S, S]."""
        y0 = (self.p.centre[:, :1] + reach * np.sin(theta)).astype(np.float32)[:, :, None]
        x0 = (self.p.centre[:, 1:] + reach * np.cos(theta)).astype(np.float32)[:, :, None]
        s = (0.5 / np.broadcast_to(sigma, reach.shape) ** 2).astype(np.float32)[:, :, None]
        rows = np.exp(-s * (self.axis - y0) ** 2) * np.asarray(weight, np.float32)[:, :, None]
        spots: Float = rows.transpose(0, 2, 1) @ np.exp(-s * (self.axis - x0) ** 2)
        return spots

    def _chromatin(self) -> Float:
        """Smooth unit noise, [n, S, S], from a coarse grid."""
        grid = np.linspace(-1, 1, self.p.chromatin.shape[1], dtype=np.float32)
        hat = np.maximum(0, 1 - np.abs(self.axis[:, None] - grid) / (grid[1] - grid[0])).astype(np.float32)
        smooth: Float = hat @ self.p.chromatin @ hat.T
        return smooth

    def _blur(self, image: Float) -> Float:
        k = self.kernel[:, None]
        return np.asarray(k @ image.astype(np.float32) @ k.transpose(0, 1, 3, 2), np.float32)


def _sigmoid(x: Float) -> Float:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)
