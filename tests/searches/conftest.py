"""Searches on tiny cells, and an executor that pretends to train: a second's work becomes a millisecond's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.evaluation.metrics import evaluate
from wbcbench.records.schema import ComparisonKey, Cost, Outcome
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import PlannedTrial
from wbcbench.scheduling.source import Outcome as TrialOutcome
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.search import Search, prepare_search
from wbcbench.searches.settings import SearchSettings
from wbcbench.searches.source import SearchSource
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request
from wbcbench.testing.records import CLASSES, fake_predictions

EPOCHS = 9


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_plugins()[0]


@pytest.fixture
def request_of(cells_file: Path, tmp_path: Path) -> Callable[..., Request]:
    def make(*sets: str, store: str = "store", **flags: Any) -> Request:
        base = {
            "dataset": "npz", "backbone": "cellnet:width=4", "teacher.backbone": "cellnet:width=6",
            "store": str(tmp_path / store), "device": "cpu", "epochs": EPOCHS,
        }  # fmt: skip
        data = (f"dataset.path={cells_file}", "dataset.modalities.u=[0]", "dataset.modalities.v=[1]")
        return load_request(None, {**base, **flags}, (*data, "batch_size=16", "threads=1", *sets))

    return make


@pytest.fixture
def search_of(request_of: Callable[..., Request], registry: Registry) -> Callable[..., Search]:
    """A search over two or three numbers of `early`, unless told otherwise."""

    def make(
        store: str = "store",
        space: dict[str, Any] | None = None,
        flags: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Search:
        request = request_of(store=store, **{"fusion": "early", **(flags or {})})
        ranges = {"training.class_weighting": "sqrt", **(space or {})}
        return prepare_search(request, registry, SearchSettings(**settings), ranges)

    return make


class Pretender:
    """Takes trials from a source and writes records without training; counts what it was paid for."""

    def __init__(self, store: Store, stop_after: int | None = None, fails: Callable[[Trial], bool] | None = None):
        self.store = store
        self.left = stop_after
        """Epochs until an interruption, as if the process were killed."""
        self.fails = fails or (lambda _: False)
        self.trained: list[str] = []

    def run(self, source: SearchSource) -> None:
        while (planned := source.next()) is not None:
            assert planned != "wait"
            source.ended(self.one(planned, source))

    def one(self, planned: PlannedTrial, source: SearchSource) -> TrialOutcome:
        trial = planned.trial
        self.trained.append(trial.id)
        if self.fails(trial):
            self.store.fail(trial, "boom")
            return TrialOutcome(planned, "failed", error="boom")
        rows = history(trial)
        for row in rows:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            if source.epoch(planned, row["epoch"], row):
                return TrialOutcome(planned, "pruned")
        return TrialOutcome(planned, "done", pretend(self.store, trial, rows))


def quality(trial: Trial) -> float:
    """How good a trial pretends to be: best at a middling rate and temperature."""
    recipe = trial.method.recipe
    return 3.0 - abs(recipe.lr - 3e-3) * 200 - recipe.weight_decay - recipe.label_smoothing


def history(trial: Trial) -> list[dict[str, Any]]:
    good = quality(trial)
    return [{"epoch": e, "val_macro_f1": 1 / (1 + 2.0 ** -(good + e / 10))} for e in range(EPOCHS)]


def pretend(store: Store, trial: Trial, rows: list[dict[str, Any]]) -> Any:
    import torch

    arrays = fake_predictions(int(trial.id[:6], 16), cells=90, skill=quality(trial))
    if trial.sealed:
        arrays = {k: v for k, v in arrays.items() if k.startswith("val_")}
    outcome = Outcome(
        key=ComparisonKey.of(trial, fingerprint=trial.protocol.fingerprint, split="s" * 16, classes=CLASSES),
        **evaluate(arrays, CLASSES),
        cost=Cost(params=1000, macs=2000, train_seconds=2.0, epochs_run=EPOCHS, device="cpu"),
        selected_epoch=0,
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:00:01+00:00",
    )
    weights = {"w": torch.zeros(1)}
    return store.write(trial, outcome, predictions=arrays, model=weights, history=rows, environment={})


@pytest.fixture
def pretender() -> type[Pretender]:
    return Pretender


@pytest.fixture
def run() -> Callable[..., tuple[Study, Pretender]]:
    """Open a search's study and pretend until its budget is spent."""

    def call(search: Search, **options: Any) -> tuple[Study, Pretender]:
        study = search.study()
        runner = Pretender(search.store, **options)
        runner.run(search.source(study))
        return study, runner

    return call
