"""Every built-in distiller in whole trials: with basic fusions, resumed, and with untouched teachers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from wbcbench.testing.components import registry
from wbcbench.testing.records import write_cells

pytestmark = pytest.mark.slow

Run = Callable[..., dict[str, Any]]
TINY = ("--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6", "--device", "cpu", "--set", "threads=1")
SGD = ("--set", "training.optimiser=sgd", "--set", "training.lr=0.01")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells, and two stores whose teachers are trained by whichever test comes first."""
    folder = tmp_path_factory.mktemp("every")
    write_cells(folder / "cells.npz")
    return folder


@pytest.fixture
def train(invoke: Callable[..., tuple[int, str, str]], stores: Path) -> Run:
    """`wbcbench run --json` on the tiny cells in a shared store."""

    def call(*args: str, store: str = "whole", code: int = 0) -> dict[str, Any]:
        got, out, err = invoke(
            "run", "--dataset", "npz", "--set", f"dataset.path={stores / 'cells.npz'}",
            "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]",
            "--store", str(stores / store), "--set", "batch_size=16", "--json", *TINY, *args,
        )  # fmt: skip
        assert got == code, err
        return json.loads(out) if out else {}

    return call


def distillers() -> list[str]:
    return [c.name for c in registry().components("distiller") if c.builtin and c.name != "none"]


def declared(name: str) -> Any:
    return registry().declaration(registry().resolve("distiller", name).component)


def asked(name: str) -> tuple[str, ...]:
    """The words that ask for a distiller: one that has no loss comes with one that has."""
    if declared(name).role == "optimiser":
        return ("--kd", f"logits+{name}", *SGD)
    return ("--kd", name)


@pytest.mark.parametrize(("number", "name"), list(enumerate(distillers())))
def test_with_basic_fusions(train: Run, number: int, name: str) -> None:
    """One of three each, in turn: `test_pairs` takes a step with every fusion; `independent` is resumed below."""
    fusions: tuple[str, ...] = (("single", "late_prob", "early")[number % 3],)
    if declared(name).needs.taught_by == "peers" or declared(name).replaces_head:
        # Peers want several routes; of several heads a joint route would have to choose one.
        fusions = ("independent", "late_prob")
    document = train("--fusion", ",".join(fusions), *asked(name), "--epochs", "1", "--set", "teacher.epochs=1")
    students = [r for r in document["records"] if r["role"] == "student"]
    assert {r["status"] for r in students} == {"done"}, [r["error"] for r in students]
    assert {r["fusion"] for r in students} == set(fusions)


@pytest.mark.parametrize("name", distillers())
def test_resumes_exactly_and_leaves_its_teacher_alone(
    train: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbcbench.training import loop, trial

    args = ("--fusion", "independent", *asked(name), "--epochs", "2", "--set", "teacher.epochs=1")
    real_judge, real_fit = loop.judge, trial.fit
    teachers: list[tuple[Any, Any]] = []

    def fit(job: Any, done: Any) -> Any:
        state = real_fit(job, done)
        if job.bank is not None:
            teachers.extend((t, t.fusion.training) for t in job.bank.teachers)
        return state

    def stop(job: Any, state: Any) -> Any:
        if job.distillation is not None and state.epoch == 1:
            raise KeyboardInterrupt
        return real_judge(job, state)

    monkeypatch.setattr(trial, "fit", fit)
    whole = train(*args, store="whole")["records"]
    student = next(r for r in whole if r["role"] == "student")
    for (teacher, training), record in zip(teachers, [r for r in whole if r["role"] == "teacher"], strict=False):
        assert not training
        weights = load_file(f"{record['path']}/model.safetensors")
        found = teacher.fusion.state_dict()
        assert all(torch.equal(found[k], v) for k, v in weights.items())
        assert all(p.grad is None for p in teacher.fusion.parameters())

    monkeypatch.setattr(loop, "judge", stop)
    train(*args, store="broken", code=130)
    monkeypatch.setattr(loop, "judge", real_judge)
    resumed = train(*args, store="broken")["records"]
    assert next(r for r in resumed if r["role"] == "student")["digest"] == student["digest"]
