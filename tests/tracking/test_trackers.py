"""Trackers hear every trial that trains; none of them can hurt one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.records.store import Store
from wbcbench.tracking import TRACKERS, start_trackers

Train = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("DO_NOT_TRACK", "1")  # mlflow counts its users
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def finals(tmp_path: Path, document: dict[str, Any]) -> dict[str, float]:
    return {r["trial_id"]: r["metrics"]["test"]["macro_f1"] for r in document["records"]}


def test_tensorboard(train: Train, tmp_path: Path) -> None:
    document = train("--fusion", "early", "--kd", "none", "--seeds", "0,1", "--track", "tensorboard")
    root = tmp_path / "store" / "tensorboard"
    assert {p.name for p in root.iterdir()} == finals(tmp_path, document).keys()
    for trial, score in finals(tmp_path, document).items():
        found = scalars(root / trial)
        history = Store(tmp_path / "store").load(trial).history()
        assert found["val_macro_f1"] == pytest.approx(list(history["val_macro_f1"]))
        assert found["loss"] == pytest.approx(list(history["loss"]))
        assert found["final/test_macro_f1"] == pytest.approx([score])


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            body = data[at + 12 : at + 12 + size]
            assert int.from_bytes(data[at + 12 + size : at + 16 + size], "little") == masked_crc32c(body)
            at += 16 + size
            for value in Event.FromString(body).summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append(value.simple_value)
    return found


def test_mlflow(train: Train, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    pytest.importorskip("alembic", reason="mlflow's own database needs alembic")
    document = train("--fusion", "early", "--kd", "none", "--track", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("wbcbench").experiment_id])
    ((trial, score),) = finals(tmp_path, document).items()
    assert run.info.status == "FINISHED"
    assert run.data.params["trial_id"] == trial
    assert run.data.params["method.fusion.name"] == "early"
    assert run.data.metrics["final_test_macro_f1"] == pytest.approx(score)
    assert len(client.get_metric_history(run.info.run_id, "val_macro_f1")) == 2


def test_wandb(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    train("--fusion", "early", "--kd", "none", "--seeds", "0,1", "--track", "wandb")
    runs = list((tmp_path / "store" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    until = time.monotonic() + 20
    while any(p.stat().st_size < 1000 for p in runs):  # its service writes on, in a process of its own
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_was_done_before_is_not_told_again(train: Train, tmp_path: Path) -> None:
    train("--fusion", "early", "--kd", "none")
    train("--fusion", "early,concat", "--kd", "none", "--track", "tensorboard")
    assert len(list((tmp_path / "store" / "tensorboard").iterdir())) == 1


def test_a_tracker_that_fails_costs_nothing(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wbcbench.tracking import TensorBoard

    def broken(self: object, *args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(TensorBoard, "epoch", broken)
    document = train("--fusion", "early", "--kd", "none", "--seeds", "0,1", "--track", "tensorboard")
    assert [r["status"] for r in document["records"]] == ["done", "done"]
    assert sum("is disabled" in r.message for r in caplog.records) == 1


def test_names_are_checked_before_anything_trains(train: Train, tmp_path: Path) -> None:
    said = train("--fusion", "early", "--kd", "none", "--track", "tensorbord", code=2)["stderr"]
    assert "tensorboard" in said
    assert not (tmp_path / "store" / "records").exists()


def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: Train
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    said = train("--fusion", "early", "--kd", "none", "--track", "wandb", code=2)["stderr"]
    assert "pip install 'wbcbench[wandb]'" in said


def test_every_tracker_has_an_extra() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(TRACKERS) <= set(extras)
    with start_trackers(None, root) as none:
        assert none == {}
