"""One holder at a time, with a file system's locks and without them."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from wbcbench import files
from wbcbench.errors import WbcbenchError
from wbcbench.files import held


def _no_locks(*_: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def _hold(path: Path, without: bool, ready: Any) -> None:
    if without:
        fcntl.flock = _no_locks  # type: ignore[assignment]
        files.LEASE = 1.0
    with held(path, "it"):
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("without", [False, True], ids=["with locks", "without locks"])
def test_one_holder_at_a_time_and_a_dead_one_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    path = tmp_path / "locks" / "x.lock"
    if without:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
        monkeypatch.setattr(files, "LEASE", 1.0)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(path, without, ready))
    holder.start()
    try:
        assert ready.wait(30)
        if without:  # it renews its lease
            time.sleep(1.5)
        with (
            pytest.raises(WbcbenchError, match="exclusive access to trial y"),
            held(path, "trial y", 0.2),
        ):
            pass
    finally:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with held(path, "trial y", 20):
        pass


def test_a_refusing_file_system_is_no_missing_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(WbcbenchError), held(tmp_path / "x.lock", "it"):
        pass
