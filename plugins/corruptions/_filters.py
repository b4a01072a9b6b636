"""Kernels, and the convolution of every channel with one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(sigma: float, like: Tensor) -> Tensor:
    """A Gaussian of this standard deviation in pixels."""
    # Integrated over pixels: sampled at pixel centres, a narrow Gaussian would be a single pixel.
    reach = max(1, math.ceil(3 * sigma))
    edge = torch.arange(-reach, reach + 2, device=like.device, dtype=like.dtype) - 0.5
    line = torch.erf(edge / (sigma * math.sqrt(2))).diff()
    line = line / line.sum()
    return line[:, None] * line[None]


def disk(radius: float, like: Tensor) -> Tensor:
    """A disk of this radius in pixels."""
    # Pixels at the edge are weighted by the part inside the disk, so that every radius gives another kernel.
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    found = (radius + 0.5 - (at[:, None] ** 2 + at[None] ** 2).sqrt()).clamp(0, 1)
    return found / found.sum()


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel of [B, C, S, S] convolved with the kernel."""
    reach = kernel.shape[0] // 2
    # Replicated borders: a kernel wider than the image would otherwise darken the edge.
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    weight = kernel.expand(x.shape[1], 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=x.shape[1])
