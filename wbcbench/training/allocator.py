"""Freed memory stays with the process that trains, instead of going back to the system layer by layer.

glibc returns every freed block of more than 32 MiB to the kernel at once, and the activations of one layer are
soon that large: the next layer then waits for pages to be found and cleared. What is kept is at most what a step
has used anyway. This is for processes of our own, the command and Ray's workers: a notebook's is left alone.
`tests/benchmarks/allocator.py` measures both ways. No number that is computed changes.
"""

from __future__ import annotations

import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of <malloc.h>
LARGE = 1 << 30
"""Bytes from which on a block (of cells, say) still goes back when it is freed."""


def is_set_by_user() -> bool:
    """Whether the environment says already how the allocator is to work, or that it is another one."""
    return any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)


_ours = False


def claim_process() -> None:
    """Say that this process is wbcbench's own, not a notebook's that calls it."""
    global _ours
    _ours = True


def keep_freed_memory_if_ours() -> bool:
    """`keep_freed_memory` in a process of our own."""
    return _ours and keep_freed_memory()


def keep_freed_memory() -> bool:
    """From now on, in this process's main thread. Returns whether the allocator took it: others than glibc's,
    and settings of the user's own, stay as they are."""
    import ctypes  # not above: every command imports this module

    if is_set_by_user():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc: macOS, musl, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def environment() -> dict[str, str]:
    """The same for processes to be started, in all of their threads: Ray trains in one that is not the main."""
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
