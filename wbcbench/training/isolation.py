"""Global settings and random states: what one trial changes in its process must not reach the next.

Trials seed themselves; this is for what a plugin may have left behind (deterministic algorithms switched on,
another default type, a disabled gradient) and for random states that nobody seeded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wbcbench.data.counter import derive_seed

PRECISIONS = {
    "": "none", "cuda.matmul": "none", "cudnn": "none", "cudnn.conv": "tf32", "cudnn.rnn": "tf32",
    "mkldnn": "none", "mkldnn.matmul": "none", "mkldnn.conv": "none", "mkldnn.rnn": "none",
}  # fmt: skip
"""Part of `torch.backends` -> its `fp32_precision` by default."""


def _parts() -> Iterator[tuple[str, Any]]:
    """Those that have it: of PyTorch 2.9 and later all, before that none."""
    for name in PRECISIONS:
        part: Any = torch.backends
        for step in name.split(".") if name else ():
            part = getattr(part, step)
        if hasattr(part, "fp32_precision"):
            yield name, part


@dataclass(frozen=True)
class Settings:
    """PyTorch's global settings."""

    dtype: torch.dtype
    gradients: bool
    deterministic: bool
    warn_only: bool
    matmul: str | None
    cudnn: tuple[bool, bool, bool]
    """enabled, benchmark, deterministic"""
    allow_tf32: bool | None
    """cuDNN's. It and `matmul` cannot be read, so None, where `precisions` were set in ways that they have no word
    for."""
    precisions: Mapping[str, str]
    """See `PRECISIONS`."""
    threads: int
    """Belongs to a thread: to be read and applied in the one that trains."""

    @classmethod
    def current(cls) -> Settings:
        """As they are now."""
        cudnn = torch.backends.cudnn
        matmul = allow_tf32 = None
        with suppress(RuntimeError):
            matmul = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            allow_tf32 = cudnn.allow_tf32
        return cls(
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            matmul,
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            allow_tf32,
            {name: part.fp32_precision for name, part in _parts()},
            torch.get_num_threads(),
        )

    def apply(self) -> None:
        """Set them."""
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradients)
        current = Settings.current()
        if (current.deterministic, current.warn_only) != (self.deterministic, self.warn_only):
            # only then: the call loads torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        cudnn = torch.backends.cudnn
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = self.cudnn
        if self.matmul is not None:
            torch.set_float32_matmul_precision(self.matmul)
        if self.allow_tf32 is not None:
            cudnn.allow_tf32 = self.allow_tf32
        for name, part in _parts():  # last, since the two above set some of them
            part.fp32_precision = self.precisions[name]
        torch.set_num_threads(self.threads)


def defaults(threads: int) -> Settings:
    """PyTorch's own, with so many threads: how many there are by default depends on the machine."""
    return Settings(torch.float32, True, False, False, "highest", (True, False, False), True, PRECISIONS, threads)


THREADS = torch.get_num_threads()
"""As many as there were when this module was imported, which is before wbcbench changes it."""


def reset(settings: Settings, seed: int = 0) -> None:
    """Apply the settings, and set every global random state to a function of `seed`."""
    settings.apply()
    word = derive_seed(seed, "slate")
    random.seed(word)
    np.random.seed(word % 2**32)  # the legacy state is what a plugin may read
    torch.manual_seed(word)


__all__ = ["THREADS", "Settings", "defaults", "reset"]
