"""Keep freed memory in the training process instead of returning it to the system after every layer.

glibc returns every freed block of more than 32 MiB to the kernel at once, and the activations of one layer can be
that large: the next layer then waits for the kernel to allocate and clear pages. At most the memory that a step
needs anyway is kept. This applies only to our own processes, the command and Ray's workers, not to a notebook.
`tests/benchmarks/allocator.py` measures both. Computed numbers do not change.
"""

from __future__ import annotations

import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of <malloc.h>
LARGE = 1 << 30
"""Blocks of this many bytes or more (cells, for example) are still returned when they are freed."""


def is_set_by_user() -> bool:
    """Whether the environment already configures the allocator, or selects another one."""
    return any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)


_ours = False


def claim_process() -> None:
    """Mark this process as wbcbench's own, not a notebook's that calls it."""
    global _ours
    _ours = True


def keep_freed_memory_if_ours() -> bool:
    """Call `keep_freed_memory` if this process is our own."""
    return _ours and keep_freed_memory()


def keep_freed_memory() -> bool:
    """From now on, in this process's main thread. Returns whether the allocator accepted it: other allocators
    than glibc's, and the user's own settings, are not changed."""
    import ctypes  # not at the top: every command imports this module

    if is_set_by_user():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc: macOS, musl, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def environment() -> dict[str, str]:
    """The same for child processes, in all of their threads: Ray does not train in the main thread."""
    if is_set_by_user():
        return {}
    never = str(1 << 62)
    return {"MALLOC_MMAP_THRESHOLD_": str(LARGE), "MALLOC_TRIM_THRESHOLD_": never, "MALLOC_ARENA_MAX": "1"}


__all__ = [
    "LARGE",
    "claim_process",
    "environment",
    "is_set_by_user",
    "keep_freed_memory",
    "keep_freed_memory_if_ours",
]
