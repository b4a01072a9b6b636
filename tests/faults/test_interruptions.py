"""Killed, interrupted and doubled runs, for real: processes and signals."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forked import Forked

from wbcbench.records.store import Store
from wbcbench.testing.records import write_cells

pytestmark = pytest.mark.slow
EPOCHS = 12


def start(cells: Path, store: Path, *more: str) -> Forked:
    """The command, with its output beside the store: a store's own folder holds nothing but records."""
    args = [
        "run", "--dataset", "npz", "--set", f"dataset.path={cells}",
        "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]", "--store", str(store),
        "--backbone", "cellnet:width=6", "--teacher", "cellnet:width=6", "--epochs", str(EPOCHS),
        "--fusion", "independent", "--kd", "logits", "--device", "cpu", "--set", "batch_size=16",
        "--set", "threads=1", "--set", "training.ema=0.9", "--json", *more,
    ]  # fmt: skip
    return Forked(args, Path(tempfile.mkdtemp(dir=store.parent)))


def finish(process: Forked, code: int = 0) -> dict[str, Any]:
    got, err = process.end()
    assert got == code, err
    out = process.out
    return json.loads(out) if out.strip() else {}  # type: ignore[no-any-return]


def digests(document: dict[str, Any]) -> list[str]:
    return [r["digest"] for r in document["records"]]


def wait_for(condition: Any, process: Forked, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended too early: {process.end()[1]}"
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.npz")


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finish(start(cells, tmp_path_factory.mktemp("whole")))


def test_ctrl_c_and_sigkill_again_and_again_and_the_result_is_bit_identical(
    cells: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    ids = [r["trial_id"] for r in undisturbed["records"]]
    process = start(cells, tmp_path)
    wait_for(lambda: any(work.glob("*/checkpoint.safetensors")), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    code, err = process.end(60)
    assert code == 130
    assert "Traceback" not in err

    kills = 0
    for trial_id, delay in ((ids[0], 0.0), (ids[1], 0.03), (ids[2], 0.01)):
        process = start(cells, tmp_path)
        checkpoint = work / trial_id / "checkpoint.safetensors"
        wait_for(lambda c=checkpoint: c.is_file(), process)  # type: ignore[misc]
        time.sleep(delay)
        process.kill()
        process.end()
        kills += not Store(tmp_path).has(trial_id)
    assert kills >= 1, "no kill came before the end of its trial: the test has shown nothing"
    document = finish(start(cells, tmp_path))
    assert digests(document) == digests(undisturbed)
    for a, b in zip(document["records"], undisturbed["records"], strict=True):
        p, q = (np.load(Path(r["path"]) / "predictions.npz") for r in (a, b))
        assert all(np.array_equal(p[k], q[k]) for k in q)
    assert not list(work.iterdir()), "checkpoints are cleared away once the record is there"


def test_a_run_goes_on_from_its_checkpoint_and_not_from_the_start(cells: Path, tmp_path: Path) -> None:
    process = start(cells, tmp_path)
    wait_for(lambda: any((tmp_path / "work").glob("*/checkpoint.safetensors")), process)
    process.kill()
    process.end()
    (checkpoint,) = (tmp_path / "work").glob("*/checkpoint.safetensors")
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint, framework="np") as file:
        meta = json.loads(file.metadata()["wbcbench"])
    done = meta["epoch"]
    assert 1 <= done < EPOCHS
    # What it says of its epochs comes back in the record, for these and no other: they were not trained again.
    for row in meta["history"]:
        row["loss"] = 1234.0
    save_file(load_file(checkpoint), checkpoint, metadata={"wbcbench": json.dumps(meta)})
    document = finish(start(cells, tmp_path))
    trial_id = checkpoint.parent.name
    (path,) = (Path(r["path"]) for r in document["records"] if r["trial_id"] == trial_id)
    losses = pd.read_csv(path / "history.csv")["loss"]
    assert len(losses) == EPOCHS
    assert [x == 1234.0 for x in losses] == [True] * done + [False] * (EPOCHS - done)


def test_two_processes_train_each_teacher_once(cells: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    both = [finish(p) for p in [start(cells, tmp_path), start(cells, tmp_path)]]
    for a, b in zip(*(d["records"] for d in both), strict=True):
        assert sorted([a["status"], b["status"]]) == ["cached", "done"]
        assert a["digest"] == b["digest"]
    assert digests(both[0]) == digests(undisturbed)


def test_a_truncated_checkpoint_is_started_over(cells: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = start(cells, tmp_path)
    wait_for(lambda: any((tmp_path / "work").glob("*/checkpoint.safetensors")), process)
    process.kill()
    process.end()
    (checkpoint,) = (tmp_path / "work").glob("*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    assert digests(finish(start(cells, tmp_path))) == digests(undisturbed)
