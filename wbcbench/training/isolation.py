"""Global settings and random states: what one trial changes in its process must not reach the next.

Trials seed themselves; this is for what a plugin may have left behind (deterministic algorithms switched on,
another default type, a disabled gradient) and for random states that nobody seeded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from wbcbench.data.counter import derive_seed


@dataclass(frozen=True)
class Settings:
    """PyTorch's global settings."""

    dtype: torch.dtype
    gradients: bool
    deterministic: bool
    warn_only: bool
    matmul: str
    cudnn: tuple[bool, bool, bool, bool]
    """enabled, benchmark, deterministic, allow_tf32"""
    threads: int
    """Belongs to a thread: to be read and applied in the one that trains."""

    @classmethod
    def current(cls) -> Settings:
        """As they are now."""
        cudnn = torch.backends.cudnn
        return cls(
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_float32_matmul_precision(),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
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
        torch.set_float32_matmul_precision(self.matmul)
        cudnn = torch.backends.cudnn
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = self.cudnn
        torch.set_num_threads(self.threads)


def defaults(threads: int) -> Settings:
    """PyTorch's own, with so many threads: how many there are by default depends on the machine."""
    return Settings(torch.float32, True, False, False, "highest", (True, False, False, True), threads)


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
