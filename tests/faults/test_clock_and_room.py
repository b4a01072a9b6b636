"""A clock that goes backwards, and a disk that is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wbcbench.boards import Options, report
from wbcbench.boards.index import contents
from wbcbench.errors import WbcbenchError
from wbcbench.records.schema import FILES
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_outcome, fake_predictions, fake_record, fake_trial

FAST = Options(resamples=100, verify="files", statistics=False)
LONG_AGO, FAR_AHEAD = 10**9, 4 * 10**9
"""2001 and 2096, in seconds."""


@pytest.mark.parametrize("when", [LONG_AGO, FAR_AHEAD])
def test_the_index_does_not_go_by_which_file_is_newer(tmp_path: Path, when: int) -> None:
    """A record written after the index, with an older time, is read; and one that is replaced by it, too."""
    store = Store(tmp_path / "store")
    fake_record(store, seed=0)
    assert contents(store).read == 1
    late = fake_record(store, seed=1)
    for name in FILES:
        os.utime(late.path / name, (when, when))
    os.utime(late.path, (when, when))
    found = contents(store)
    assert (found.read, len(found.entries)) == (1, 2)
    assert contents(store).read == 0
    data = bytearray((late.path / "predictions.npz").read_bytes())
    data[-30] ^= 1
    (late.path / "predictions.npz").write_bytes(data)
    os.utime(late.path / "predictions.npz", (when, when))
    assert [name for name, _ in contents(store).refused] == [late.trial.id]


def test_a_lock_file_from_the_future_holds_nobody(tmp_path: Path) -> None:
    """Who holds a trial is known by the system's lock, which ends with its process, not by a file's time."""
    store = Store(tmp_path)
    with store.lock("a" * 16):
        pass
    path = tmp_path / "locks" / f"{'a' * 16}.lock"
    path.touch()
    os.utime(path, (FAR_AHEAD, FAR_AHEAD))
    with store.lock("a" * 16, timeout=5), pytest.raises(WbcbenchError, match="another process has held"):
        held_elsewhere(tmp_path, "a" * 16)


def held_elsewhere(root: Path, trial: str) -> None:
    """Ask for a lock as another process would: through a descriptor of its own."""
    with Store(root).lock(trial, timeout=0.05):
        pass


def test_a_record_that_ended_before_it_started_is_kept(tmp_path: Path) -> None:
    """The clock was set back during the training: the record is whole, and boards do not go by its times."""
    store = Store(tmp_path / "store")

    trial, arrays = fake_trial(0), fake_predictions(0)
    outcome = fake_outcome(trial, arrays).model_copy(
        update={"started": "2026-06-01T00:00:00+00:00", "ended": "2026-05-01T00:00:00+00:00"}
    )
    store.write(trial, outcome, predictions=arrays, model=b"weights", history=[{"epoch": 0}], environment={})
    assert [r.trial.id for r in store.scan("full")[0]] == [trial.id]
    assert len(report([store.root], FAST).boards) == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of three quarters of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=768k", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_in_a_message_and_a_freed_one_goes_on(small: Path, tmp_path: Path) -> None:
    store = Store(small / "store")
    (small / "other").write_bytes(bytes(662 << 10))  # somebody else's
    with pytest.raises(WbcbenchError, match=r"the file system refused: No space left on device.*--store"):
        fill(store)
    written = len(list((store.root / "records").iterdir()))
    assert written >= 2
    good, bad = store.scan("full")
    assert (len(good), bad) == (written, []), "what is there is whole"
    assert not list(store.root.rglob(".tmp-*"))
    found = report([store.root], FAST)
    assert sum(len(row.sources) for board in found.boards for row in board.rows) == written, "without an index"
    digests = {r.trial.id: r.result.digest for r in good}
    (small / "other").unlink()
    for seed in range(written + 3):
        fake_record(store, fake_trial(seed), seed)
    again = {r.trial.id: r.result.digest for r in store.scan("full")[0]}
    assert len(again) == written + 3
    assert digests.items() <= again.items()


def fill(store: Store) -> None:
    for seed in range(40):
        fake_record(store, fake_trial(seed), seed)


def test_a_sweep_on_a_full_disk_goes_on_when_there_is_room(
    small: Path, cells_file: Path, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    args = ["run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--set", "dataset.modalities.u=[0]",
            "--set", "dataset.modalities.v=[1]", "--store", str(small / "store"), "--epochs", "1",
            "--fusion", "early", "--seeds", "0,1,2",
            "--backbone", "cellnet:width=4", "--device", "cpu", "--set", "threads=1",
            "--set", "batch_size=32", "--executor", "inline", "--json"]  # fmt: skip
    (small / "other").write_bytes(bytes(700 << 10))
    code, _, err = invoke(*args)
    assert code == 1, err
    assert "No space left on device" in err
    assert "Traceback" not in err
    good, bad = Store(small / "store").scan("full")
    assert not bad
    assert len(good) < 3
    (small / "other").unlink()
    code, _, err = invoke(*args)
    assert code == 0, err
    assert len(Store(small / "store").scan("full")[0]) == 3
