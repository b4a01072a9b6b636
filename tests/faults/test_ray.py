"""Sweeps under Ray: equal to inline ones, and what becomes of them when something goes wrong. For real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked

from wbcbench.records.store import Store
from wbcbench.testing.records import write_cells

pytestmark = pytest.mark.slow
EPOCHS = 12
Run = Callable[..., dict[str, Any]]
Cluster = Any  # of conftest.py: has an address, and can be told to add or kill a node


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.npz")


def arguments(cells: Path, store: Path, *more: str) -> list[str]:
    return [
        "run", "--dataset", "npz", "--set", f"dataset.path={cells}", "--set", "dataset.modalities.u=[0]",
        "--set", "dataset.modalities.v=[1]", "--store", str(store), "--backbone", "cellnet:width=6",
        "--teacher", "cellnet:width=6", "--device", "cpu", "--set", "batch_size=16", "--cpus-per-trial", "1",
        "--json", *more,
    ]  # fmt: skip


STUDY = ("--fusion", "independent,early", "--kd", "none,logits", "--epochs", str(EPOCHS))


@pytest.fixture
def run(
    cells: Path, tmp_path: Path, invoke: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """`wbcbench run --json` in this process."""
    shutil.copy(Path(__file__).with_name("faulty.py"), folder_of(tmp_path) / "faulty.py")
    monkeypatch.setenv("WBCBENCH_TEST_FOLDER", str(tmp_path))

    def call(*more: str, code: int = 0, epochs: int = 2) -> dict[str, Any]:
        args = arguments(cells, tmp_path / "store", "--epochs", str(epochs), *more)
        got, out, err = invoke(*args)
        assert got == code, err
        return {"err": err, **(json.loads(out) if out else {})}

    return call


def folder_of(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir(exist_ok=True)
    return tmp_path / "plugins"


def start(cells: Path, store: Path, cluster: Cluster, *more: str) -> Forked:
    """The study as a command of its own."""
    where = ["--executor", "inline"]
    if cluster is not None:
        where = ["--executor", "ray", "--ray-address", cluster.address]
    return forked(arguments(cells, store, *STUDY, *where, *more), store)


def forked(args: list[str], store: Path) -> Forked:
    """Its output goes beside the store."""
    return Forked(args, Path(tempfile.mkdtemp(dir=store.parent)))


def finish(process: Forked, code: int = 0) -> dict[str, Any]:
    got, err = process.end(500)
    assert got == code, err
    return {"err": err, **(json.loads(process.out) if process.out.strip() else {})}


def digests(document: dict[str, Any]) -> dict[str, str]:
    return {r["trial_id"]: r["digest"] for r in document["records"]}


def wait_for(condition: Callable[[], Any], process: Forked) -> Any:
    end = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, f"ended too early: {process.err}"
        assert time.monotonic() < end
        time.sleep(0.02)  # seldom enough not to take a core from those that are waited for
    return found


def training(store: Path) -> list[tuple[str, int]]:
    """Trials that have a checkpoint, and the processes that hold them now."""
    ids = [p.parent.name for p in (store / "work").glob("*/checkpoint.safetensors")]
    held = [(i, holder(store / "locks" / f"{i}.lock")) for i in ids if not Store(store).has(i)]
    return [(i, pid) for i, pid in held if pid is not None]


def holder(lock: Path) -> int | None:
    """The process that has a file open: the worker whose trial's lock it is."""
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            links: list[str] = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if str(lock) in links:
            return int(pid)
    return None


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finish(start(cells, tmp_path_factory.mktemp("whole"), None))


def test_a_killed_worker_is_replaced_and_a_killed_driver_goes_on_from_the_store(
    cells: Path, undisturbed: dict[str, Any], tmp_path: Path, cluster: Cluster
) -> None:
    """A worker is killed, then the driver interrupted, then killed: the records are those of an inline run."""
    process = start(cells, tmp_path, cluster)
    os.kill(wait_for(lambda: training(tmp_path), process)[0][1], signal.SIGKILL)
    wait_for(lambda: "worker process ended" in process.err, process)
    wait_for(lambda: training(tmp_path), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    code, err = process.end(120)
    assert code == 130, err
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    end = time.monotonic() + 60
    while training(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not training(tmp_path), "a worker outlived its driver"

    process = start(cells, tmp_path, cluster)
    store = Store(tmp_path)
    wait_for(lambda: len(store.scan(verify=False)[0]) >= 2 and training(tmp_path), process)
    process.kill()
    process.end()
    done = {r.trial.id: r.path.stat().st_mtime_ns for r in store.scan()[0]}
    document = finish(start(cells, tmp_path, cluster))
    status = {r["trial_id"]: r["status"] for r in document["records"]}
    assert all(status[i] == "cached" for i in done)
    assert all(store.record_path(i).stat().st_mtime_ns == t for i, t in done.items())
    assert digests(document) == digests(undisturbed)
    assert len(document["records"]) == 6, "each teacher once, for both students"
    for a, b in zip(document["records"], undisturbed["records"], strict=True):
        assert a["trial_id"] == b["trial_id"], "in the order of an inline run"
        p, q = (np.load(Path(r["path"]) / "predictions.npz") for r in (a, b))
        assert all(np.array_equal(p[k], q[k]) for k in q)
    assert not list((tmp_path / "work").iterdir())


def test_a_dying_node_s_trials_move(cells: Path, tmp_path: Path, cluster: Cluster) -> None:
    study = ("--kd", "none", "--seeds", "0,1", "--epochs", "150")
    whole = finish(start(cells, tmp_path / "whole", None, *study))
    cluster.tell("add")
    store = tmp_path / "store"
    process = start(cells, store, cluster, *study)
    # Three CPUs, and four trials that need nobody: one of those that train is on the second node.
    wait_for(lambda: len(training(store)) == 3, process)
    cluster.tell("kill")
    document = finish(process)
    assert "worker process ended" in document["err"], "no trial was on the node that died"
    assert digests(document) == digests(whole)


def test_a_search_goes_on_from_its_records_and_its_pruned_trials_stay_pruned(
    cells: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """Optuna proposes, Ray runs two at a time; the driver is killed; the same command goes on."""
    store = Store(tmp_path / "store")
    command = [
        "search", *arguments(cells, store.root)[1:], "--fusion", "early",
        "--kd", "logits", "--trials", "8", "--sampler", "random", "--pruner", "asha", "--objective", "nll",
        "--winner-seeds", "0", "--epochs", "6", "--executor", "ray", "--ray-address", cluster.address,
    ]  # fmt: skip

    process = forked(command, store.root)
    wait_for(lambda: [r for r in store.scan(verify=False)[0] if r.trial.sealed], process)
    process.kill()
    process.end()
    before = {r.trial.id: r.result.digest for r in store.scan()[0]}
    (found,) = finish(forked(command, store.root))["searches"]
    budget = found["budget"]
    assert budget["trials"] == 8
    assert budget["pruned"] > 0, "a stopped trial must reach the study as pruned"
    assert budget["complete"] + budget["pruned"] == 8, "and nothing failed"
    records = store.scan()[0]
    assert before.items() <= {r.trial.id: r.result.digest for r in records}.items()
    sealed = [r for r in records if r.trial.sealed]
    assert len(sealed) == budget["complete"]
    assert not any(n.startswith("test_") for r in sealed for n in np.load(r.path / "predictions.npz").files)
    (winner,) = found["winners"]
    assert [store.load(i).trial.sealed for i in winner["trial_ids"]] == [False]
    assert found["best"][0]["values"]["nll"] == min(r.result.metrics["val"]["nll"] for r in sealed)


def test_what_raises_blows_up_or_fills_the_gpu_fails_alone(run: Run, tmp_path: Path, cluster: Cluster) -> None:
    fusions = [*(f"faulty:how={how}" for how in ("raise", "nan", "full_once", "full")), "early"]
    document = run(
        "--plugins-dir", str(folder_of(tmp_path)), "--fusion", ",".join(fusions),
        "--executor", "ray", "--ray-address", cluster.address, "--gpus-per-trial", "0.5", "--device", "auto",
        code=1,
    )  # fmt: skip
    raised, blown, once, full, well = document["records"]
    assert [r["status"] for r in document["records"]] == ["failed", "failed", "done", "failed", "done"]
    assert "this fusion always raises" in raised["error"]
    assert "faulty.py" in raised["error"], "the worker's traceback is there"
    assert "no longer a finite number" in blown["error"]
    assert "even alone" in full["error"], "a full GPU is tried again alone, with a whole one"
    failures = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "store" / "failures").glob("*.json")}
    assert set(failures) == {r["trial_id"] for r in (raised, blown, full)}
    assert "this fusion always raises" in failures[raised["trial_id"]]["error"]
    assert "this fusion always raises" in document["err"]
    for how in ("full_once", "full"):
        notes = [json.loads(p.read_text()) for p in sorted(tmp_path.glob(f"{how}-*"), key=os.path.getmtime)]
        assert [n["resources"]["GPU"] for n in notes] == [0.5, 1.0], how
        assert all(n["cuda"] in ("0", "1") for n in notes), "one GPU of two is shown"
    assert once["trial_id"] != well["trial_id"]


def test_without_a_share_no_gpu_is_seen(run: Run, tmp_path: Path, cluster: Cluster) -> None:
    run(
        "--plugins-dir", str(folder_of(tmp_path)), "--fusion", "faulty:how=look", "--device", "auto",
        "--gpus-per-trial", "0", "--executor", "ray", "--ray-address", cluster.address, "--set", "threads=2",
        epochs=1,
    )  # fmt: skip
    (note,) = tmp_path.glob("look-*")
    seen = json.loads(note.read_text())
    assert seen["cuda"] == ""
    assert seen["threads"] == 2


def test_trials_that_tune_drops_are_named_and_never_pass_for_ctrl_c(
    run: Run, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drops one if a worker cannot be reused; a worker has minutes to end, not two seconds."""
    from ray.tune.trainable.function_trainable import FunctionTrainable

    monkeypatch.setattr(FunctionTrainable, "reset_config", FunctionTrainable.reset_config)  # restored afterwards
    command = (
        "--plugins-dir", str(folder_of(tmp_path)), "--fusion", "faulty:how=cling,early", "--jobs", "1",
        "--executor", "ray", "--ray-address", cluster.address,
    )  # fmt: skip
    assert "Ray Tune dropped early" in run(*command, code=1, epochs=1)["err"]
    assert [r["status"] for r in run(*command, epochs=1)["records"]] == ["cached", "done"]


def test_a_changed_plugin_is_refused(run: Run, tmp_path: Path, cluster: Cluster) -> None:
    from wbcbench.registry import loading as plugins

    folder = folder_of(tmp_path)
    real = plugins.load_plugins

    def load_then_change(options: Any = None) -> Any:
        loaded = real(options)
        with (folder / "faulty.py").open("a") as file:
            file.write("\n# changed after planning\n")
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "load_plugins", load_then_change)
        document = run(
            "--plugins-dir", str(folder), "--fusion", "faulty", "--seeds", "0,1",
            "--executor", "ray", "--ray-address", cluster.address, code=4,
        )  # fmt: skip
    assert "fusion 'local.faulty/faulty' as it was when this run was planned" in document["err"]
    assert not (tmp_path / "store" / "records").exists()


@pytest.mark.parametrize("share", [("--cpus-per-trial", "99"), ("--gpus-per-trial", "5", "--device", "auto")])
def test_what_nobody_can_give_is_refused_at_once(
    share: tuple[str, ...], run: Run, tmp_path: Path, cluster: Cluster
) -> None:
    document = run("--executor", "ray", "--ray-address", cluster.address, *share, code=2)
    assert "the largest node has 2 CPUs and 2 GPUs" in document["err"]


def test_addresses_that_lead_nowhere_are_told_apart_from_slow_ones(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        document = run("--executor", "ray", "--ray-address", f"127.0.0.1:{port}", code=2)
    assert "nothing answers there" in document["err"]
    assert "as host:port" in run("--executor", "ray", "--ray-address", "ray://10.0.0.1:10001", code=2)["err"]
    assert "as host:port" in run("--executor", "ray", "--ray-address", "head-node", code=2)["err"]


def test_a_store_that_cannot_be_written_is_refused(run: Run, tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "store").write_text("a file, where a folder is wanted")
    document = run("--executor", "ray", "--ray-address", cluster.address, code=1)
    assert "the file system refused" in document["err"]


def test_a_store_that_fills_up_leaves_no_half_record(
    cells: Path, tmp_path: Path, invoke: Callable[..., tuple[int, str, str]], cluster: Cluster
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        args = [*STUDY[:-1], "2", "--executor", "ray", "--ray-address", cluster.address]
        code, _, err = invoke(*arguments(cells, small / "store", *args))
        assert code == 1
        assert "No space left on device" in err
        assert "Traceback" not in err
        good, bad = Store(small / "store").scan(verify="full")
        assert not bad, "what is there is whole"
        assert len(good) < 6
        assert not list((small / "store" / "records").glob(".tmp-*"))
    finally:
        subprocess.run(["umount", small], check=True)
