"""How long a call takes on a machine that has other things to do.

Whatever else runs makes a pass longer, never shorter. So the passes are made in short bursts, and the burst that
was disturbed least is the answer: its median, since a single pass may be short by chance. Measurements of one
machine also wait for each other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BURST = 3
"""Passes of a burst: the fewest that have a median, so that as many bursts as possible are tried."""
BURSTS = 34
"""At most, so that a tiny network does not spin."""
WAIT = 3.0
"""Seconds to wait for another measurement on this machine; then it is measured all the same."""


def least_seconds(
    once: Callable[[], None], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least of the bursts' medians, after a warm-up of two passes.

    Args:
        once: one pass, finished when it returns.
        seconds: after which no other burst begins; one is made however long it takes.
        clock: seconds.
    """
    once()
    once()
    end = clock() + seconds
    medians: list[float] = []
    while len(medians) < BURSTS and (not medians or clock() < end):
        times: list[float] = []
        for _ in range(BURST):
            start = clock()
            once()
            times.append(clock() - start)
        medians.append(statistics.median(times))
    return min(medians)


@contextmanager
def alone(folder: Path | None = None, wait: float = WAIT) -> Iterator[bool]:
    """Hold the machine's lock for measurements; gives whether it was had.

    Args:
        folder: of the lock; by default the machine's temporary folder.
        wait: seconds, after which the block runs without it.
    """
    from filelock import FileLock

    lock = FileLock((folder or Path(tempfile.gettempdir())) / "wbcbench-timing.lock")
    with suppress(OSError):  # filelock's Timeout, another user's file
        lock.acquire(timeout=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


__all__ = ["BURST", "BURSTS", "WAIT", "alone", "least_seconds"]
