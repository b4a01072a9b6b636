"""Counter-based random numbers: a pure function of integers, the same on every device.

Nothing depends on the order of calls, on batch size or on worker count. So a resumed run gives the same results
as an uninterrupted one, and two methods with the same seed are paired. The mixer is the 32-bit finaliser
`lowbias32` (two multiplications, three xor-shifts; Wellons' "hash prospector"), chained over the counters.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor | int) -> Tensor | int:
    # 64-bit products may wrap, but the low 32 bits that are kept are the same either way.
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def counter_hash(*counters: int | str | Tensor) -> Tensor | int:
    """Hash counters to 32 bits; strings count as their CRC-32, tensors (int64, >= 0) broadcast."""
    h: Tensor | int = 0x9E3779B9
    for counter in counters:
        if isinstance(counter, str):
            counter = zlib.crc32(counter.encode())
        low, high = counter & _MASK, counter >> 32
        h = _mix(h ^ _mix((low + 0x85EBCA6B) & _MASK))
        h = _mix(h ^ high)
    return h


def derive_seed(*counters: int | str) -> int:
    """A 32-bit seed for a library's own generator."""
    seed = counter_hash(*counters)
    assert isinstance(seed, int)
    return seed


def uniform(*counters: int | str | Tensor) -> Tensor:
    """Float32 in [0, 1) with 24 random bits, of the counters' broadcast shape."""
    h = counter_hash(*counters)
    h = h if isinstance(h, Tensor) else torch.tensor(h)
    return (h >> 8).to(torch.float32) * (1.0 / (1 << 24))


def permutation(cells: Tensor, *counters: int | str) -> Tensor:
    """The given cell ids [N] in random order: sorted by each cell's own hash."""
    h = counter_hash(*counters, cells)
    assert isinstance(h, Tensor)
    return cells[torch.argsort(h, stable=True)]
