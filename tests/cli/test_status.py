"""What `status` and `watch` say of a store, and that they change nothing in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wbcbench.records.activity import CHECKPOINT, activity, announced, begin
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_record, fake_trial

Invoke = Callable[..., tuple[int, str, str]]
NOW = time.time()


def checkpoint(store: Store, trial_id: str, epoch: int, at: float) -> None:
    """A checkpoint of some epochs, 10 s each, written `at`."""
    meta = {"epoch": epoch, "history": [{"val_macro_f1": 0.5}] * epoch, "train_seconds": 10.0 * epoch}
    folder = store.work(trial_id)
    save_file({"w": torch.zeros(2)}, folder / CHECKPOINT, metadata={"wbcbench": json.dumps(meta)})
    for path in folder.iterdir():
        os.utime(path, (at, at))


@pytest.fixture
def sweep(tmp_path: Path) -> Store:
    """Five trials of an interrupted sweep: one done, one running, one silent, one failed, one waiting."""
    store = Store(tmp_path / "store")
    trials = [fake_trial(seed) for seed in range(5)]
    fake_record(store, trials[0])
    for trial, at in ((trials[1], NOW - 5), (trials[2], NOW - 3610), (trials[3], NOW - 10)):
        begin(store, trial)
        checkpoint(store, trial.id, 2, at)
    store.fail(trials[3], "Traceback\nValueError: no luck\x1b[2J")
    with pytest.raises(KeyboardInterrupt), announced(store, [t.id for t in trials]):
        raise KeyboardInterrupt
    return store


def test_the_state_of_a_sweep(sweep: Store) -> None:
    found = activity(sweep, NOW)
    (state,) = found.sweeps
    assert (state.trials, state.done, state.running, state.failed, state.waiting) == (5, 1, 1, 1, 2)
    running, silent = found.training
    assert (running.alive, running.epoch, running.validation) == (True, 2, 0.5)
    assert running.seconds_left == 10.0 * ((running.epochs or 0) - 2)
    assert (silent.alive, round(silent.silent)) == (False, 3610)
    assert [f.error for f in found.failures] == ["ValueError: no luck\x1b[2J"]
    with announced(sweep, [fake_trial(seed).id for seed in range(5)]):
        assert len(activity(sweep, NOW).sweeps) == 1, "the same sweep again"
    assert activity(sweep, NOW).sweeps == ()


def test_what_people_see_and_that_nothing_changes(sweep: Store, invoke: Invoke, tmp_path: Path) -> None:
    def files() -> dict[str, float]:
        return {str(p): p.stat().st_mtime for p in sweep.root.rglob("*")}

    (sweep.root / "sweeps" / "broken.json").write_text("{")
    before = files()
    page = tmp_path / "page.html"
    code, out, _ = invoke("status", "--store", str(sweep.root))
    assert code == 0
    assert "1 done" in out.splitlines()[0]
    assert "1/5 done" in out
    assert "ValueError: no luck\\u001b[2J" in out
    assert "seed 2" in out.partition("silent")[2]
    assert files() == before
    for path in (sweep.root / "work").rglob("*.*"):
        os.utime(path, (NOW - 7300, NOW - 7300))  # nothing runs any more
    before = files()
    out = invoke("status", "--store", str(sweep.root))[1]
    code, again, _ = invoke("watch", "--store", str(sweep.root), "--until-idle", "--page", str(page))
    assert code == 0
    old, new = ([x for x in text.strip().splitlines() if "silent" not in x] for text in (out, again))
    assert new == old
    assert 'http-equiv="refresh"' in page.read_text()
    document = json.loads(invoke("status", "--store", str(sweep.root), "--json")[1])
    assert document["records"] == 1
    assert files() == before
    assert invoke("status", "--store", str(tmp_path / "none"))[0] == 2
