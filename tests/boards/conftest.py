"""A small study in a store: two fusions on two seeds, a distilled one that lacks a seed, a reference."""

from __future__ import annotations

import json
import shutil

import pytest

from wbcbench.boards import Options, report
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def add():
    def call(store, trial, skill=2.0, cells=30, **more):
        p = fake_predictions(trial.seed, skill=skill, cells=cells)
        return fake_record(store, trial, predictions=more.pop("predictions", p), **more)

    return call


@pytest.fixture(scope="session")
def shared(tmp_path_factory, add):
    """The study, for tests that change nothing in it but its index."""
    store = Store(tmp_path_factory.mktemp("study") / "store")
    teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",))
    add(store, teacher, skill=3.0, params=9000, train_seconds=50.0)
    for seed in (0, 1):
        add(store, fake_trial(seed), skill=1.0)
        add(store, fake_trial(seed, fusion="gated"), skill=2.0, provider="stranger")
        add(store, fake_trial(seed, fusion="single", modalities=("dapi",)), skill=0.5)
    add(store, fake_trial(0, kd="logits", teachers=(teacher,)), skill=4.0)
    return store


@pytest.fixture(scope="session")
def shared_report(shared):
    """The boards of the study."""
    return report([shared], Options(resamples=200, verify="files"))


@pytest.fixture
def study(store, shared):
    """A copy of its own, without an index, for a test that changes it."""
    shutil.copytree(shared.root, store.root, ignore=lambda folder, names: {"index", "locks"} & set(names))
    return store


@pytest.fixture
def examined():
    """Write what `--evaluate full` leaves of a record."""

    def call(store, record, subsets, **more):
        path = store.root / "evaluations" / f"{record.trial.id}.json"
        path.parent.mkdir(exist_ok=True)
        result = {"subsets": {s: {"macro_f1": v} for s, v in subsets.items()}, "shapley": {}}
        path.write_text(
            json.dumps({"version": EXAMINATION_VERSION, "digest": record.result.digest, "result": result} | more)
        )

    return call
