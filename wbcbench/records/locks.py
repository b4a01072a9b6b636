"""One process at a time, on one machine or on several that share a file system."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wbcbench.errors import WbcbenchError
from wbcbench.records.atomic import storing

LEASE = 60.0
"""Seconds after which a holder that no longer renews its lease has lost it."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def held(path: Path, what: str, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file for this process.

    The system lets go of it when the process dies. On a file system without locks (some network ones) the holder
    keeps renewing a lease instead, and one that died, on whichever machine, loses it after `LEASE` seconds.

    Args:
        path: of the lock file; its folder is made.
        what: for the error: what one wanted to have alone.
        timeout: seconds to wait for another holder; negative: for ever.

    Raises:
        WbcbenchError: when another process still holds it after `timeout`.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
        try:
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                raise
            except (NotImplementedError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise
                lock = SoftFileLease(path.with_suffix(".lease"), lease_duration=LEASE)
                lock.acquire(timeout=timeout)
        except Timeout:
            raise WbcbenchError(
                f"Expected to have {what} alone, but another process has held {path} for more than "
                f"{timeout:g} s. Wait for it, or end it."
            ) from None
    try:
        yield
    finally:
        lock.release()


__all__ = ["LEASE", "held"]
