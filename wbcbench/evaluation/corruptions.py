"""Seeded corruptions of one modality's images, at five severities.

Images are normalised (mean 0, sd 1 over training cells), so strengths mean the same on every set. What a cell
gets is a function of (seed, kind, cell): all methods meet the same damage.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.data.counter import uniform

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, Tensor, float, int], Tensor]
"""(images [B, C, S, S], cell ids [B], strength in (0, 1], seed) -> images."""


def noise(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian sensor noise, sd = strength."""
    pixels = x[0].numel()
    u = uniform(seed, "noise", cells[:, None] * pixels + torch.arange(pixels, device=x.device)[None])
    return x + strength * (torch.erfinv(2 * u.clamp(1e-6, 1 - 1e-6) - 1) * math.sqrt(2)).view_as(x)


def blur(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian blur, sigma = 0.2 px (which changes next to nothing) + strength x 1/16 of the side (4 px of 64)."""
    return _depthwise(x, _gaussian(0.2 + strength * x.shape[-1] / 16, x))


def defocus(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Out of focus: a disk of radius 0.5 px (which changes nothing) + strength x 1/12 of the side."""
    return _depthwise(x, _disk(0.5 + strength * x.shape[-1] / 12, x))


def illumination(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Uneven, wrong light: a linear shade in a random direction and a gain, both up to strength."""
    angle = uniform(seed, "shade", cells) * 2 * math.pi
    gain = 1 + strength * (uniform(seed, "gain", cells) * 2 - 1)
    at = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    shade = torch.cos(angle)[:, None, None] * at[None, None] + torch.sin(angle)[:, None, None] * at[None, :, None]
    return x * gain[:, None, None, None] + strength * shade[:, None]


def stain_shift(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Another batch of stain: each channel's gain and offset change, both by up to strength."""
    channels = torch.arange(x.shape[1], device=x.device)
    key = cells[:, None] * x.shape[1] + channels[None]
    gain = 1 + strength * (uniform(seed, "stain gain", key) * 2 - 1)
    offset = strength * (uniform(seed, "stain offset", key) * 2 - 1)
    return x * gain[..., None, None] + offset[..., None, None]


def misregistration(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """The modality is shifted against the others by strength x 1/6 of the side, in a random direction."""
    angle = uniform(seed, "shift", cells) * 2 * math.pi
    theta = torch.zeros(len(x), 2, 3, device=x.device, dtype=x.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2], theta[:, 1, 2] = torch.cos(angle) * strength / 3, torch.sin(angle) * strength / 3
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "defocus": defocus,
    "illumination": illumination,
    "stain_shift": stain_shift,
    "misregistration": misregistration,
}


def _gaussian(sigma: float, like: Tensor) -> Tensor:
    # Integrated over pixels: taken at their centres, a narrow Gaussian is a single pixel.
    reach = max(1, math.ceil(3 * sigma))
    edge = torch.arange(-reach, reach + 2, device=like.device, dtype=like.dtype) - 0.5
    line = torch.erf(edge / (sigma * math.sqrt(2))).diff()
    line = line / line.sum()
    return line[:, None] * line[None]


def _disk(radius: float, like: Tensor) -> Tensor:
    # The rim's pixels count by how much of them is inside, so that every radius is another disk.
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    disk = (radius + 0.5 - (at[:, None] ** 2 + at[None] ** 2).sqrt()).clamp(0, 1)
    return disk / disk.sum()


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    reach = kernel.shape[0] // 2
    # Replicated borders: a kernel wider than the image would otherwise darken the edge.
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    weight = kernel.expand(x.shape[1], 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=x.shape[1])
