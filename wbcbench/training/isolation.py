"""A clean slate before every trial: what one trial changes in its process must not reach the next.

Trials seed themselves; this is for what a plugin may have left behind (switched on deterministic
algorithms, another default type, a disabled gradient) and for random states that nobody seeded.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from wbcbench.data.counter import derive_seed


class Slate:
    """The process's global settings as they were when this object was made."""

    def __init__(self) -> None:
        self._dtype = torch.get_default_dtype()
        self._gradients = torch.is_grad_enabled()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self._matmul = torch.get_float32_matmul_precision()
        cudnn = torch.backends.cudnn
        self._cudnn = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
        self._tf32 = cudnn.allow_tf32
        self._threads = torch.get_num_threads()

    def restore(self, seed: int = 0) -> None:
        """Put everything back, and every global random state to a function of `seed`.

        To be called in the thread that trains: the number of compute threads belongs to a thread.
        """
        torch.set_default_dtype(self._dtype)
        torch.set_grad_enabled(self._gradients)
        asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if asked != (self._deterministic, self._warn_only):  # the call loads torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(self._deterministic, warn_only=self._warn_only)
        torch.set_float32_matmul_precision(self._matmul)
        cudnn = torch.backends.cudnn
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = self._cudnn
        cudnn.allow_tf32 = self._tf32
        torch.set_num_threads(self._threads)
        word = derive_seed(seed, "slate")
        random.seed(word)
        np.random.seed(word % 2**32)  # the legacy state is what a plugin may read
        torch.manual_seed(word)
