"""A search never sees the test split: not in training, not in its records, not on a leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.boards import Options, build
from wbcbench.errors import RecordError, UsageError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.scheduling.inline import prepare
from wbcbench.searches.search import Search
from wbcbench.spec import Method, Trial
from wbcbench.testing.records import fake_outcome, fake_predictions, fake_record, fake_trial
from wbcbench.training import loop
from wbcbench.training import trial as training
from wbcbench.training.report import examined
from wbcbench.training.trial import run_trial
from wbcbench.training.workbench import Workbench

Invoke = Callable[..., tuple[int, str, str]]


def test_an_ordinary_trial_is_what_it_was_before_there_were_seals() -> None:
    assert fake_trial().id == "d97229b3aa7a7359"
    assert "sealed" not in fake_trial(teachers=(fake_trial(1),)).model_dump_json()


def test_a_sealed_trial_is_another_trial_of_the_same_method() -> None:
    trial = fake_trial()
    assert trial.id != trial.seal().id
    assert trial.method_id() == trial.seal().method_id()
    assert Trial.model_validate_json(trial.seal().model_dump_json()) == trial.seal()
    student = Trial(protocol=trial.protocol, method=Method(**{**dict(trial.method), "teachers": (trial.seal(),)}))
    assert student.id != fake_trial(teachers=(trial,)).id


def val_only(seed: int = 0) -> dict[str, Any]:
    return {k: v for k, v in fake_predictions(seed).items() if k.startswith("val_")}


def test_a_sealed_record_that_knows_the_test_split_is_refused(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), fake_trial().seal()
    good = fake_record(store, trial, predictions=val_only())
    assert good.result.status == "sealed"
    assert set(good.result.metrics) == {"val"}
    assert (good.result.per_class, good.result.confusion, good.result.routes) == ({}, [], {})
    assert store.load(trial.id, verify="full").result == good.result
    other = fake_trial(1).seal()
    with pytest.raises(RecordError, match="sealed"):
        fake_record(store, other, predictions=fake_predictions(1))
    with pytest.raises(RecordError):  # numbers of test beside predictions of validation
        store.write(
            other, fake_outcome(other, fake_predictions(1)), predictions=val_only(1), model={}, history=[],
            environment={},
        )  # fmt: skip
    assert not store.has(other.id)


def test_an_ordinary_record_without_test_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="test"):
        fake_record(Store(tmp_path), fake_trial(), predictions=val_only())


def test_leaderboards_pass_over_sealed_records(tmp_path: Path, invoke: Invoke) -> None:
    store = Store(tmp_path)
    fake_record(store, fake_trial(0))
    fake_record(store, fake_trial(1).seal(), predictions=val_only())
    records, bad = store.scan(verify="full")
    assert not bad
    assert len(records) == 2
    (board,) = build([store], Options(resamples=100, index=False))
    assert [r.seeds for r in board.rows] == [(0,)]
    code, out, err = invoke("leaderboard", "--store", str(tmp_path), "--json")
    assert code == 0, err
    assert json.loads(out)["refused"] == []


def test_training_a_sealed_trial_predicts_no_test_cell(
    search_of: Callable[..., Search], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_of(flags={"epochs": 2})
    (planned,) = search.base.trials
    bench = prepare(search.base, search.request, registry)
    assert isinstance(bench, Workbench)
    seen: list[int] = []

    def spied(real: Any) -> Any:
        def spy(fusion: Any, cells: Any, ids: Any, *rest: Any) -> Any:
            seen.extend(ids.tolist())
            return real(fusion, cells, ids, *rest)

        return spy

    for module, name in ((training, "predict"), (loop, "forward_all")):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    record, _ = run_trial(planned.trial, bench)
    split = bench.split(planned.trial)
    assert set(seen) == set(split.val.tolist())
    assert not set(seen) & set(split.test.tolist())
    with np.load(record.path / "predictions.npz") as arrays:
        assert set(arrays.files) == {"val_probabilities", "val_labels", "val_cells"}
    open_record, _ = run_trial(
        Trial(protocol=planned.trial.protocol, method=planned.trial.method, seed=1000), bench
    )
    assert open_record.result.metrics["val"] == record.result.metrics["val"], "the seal changes nothing else"
    assert "test" in open_record.result.metrics
    with pytest.raises(UsageError, match="must not see the test split"):
        examined(record, bench)
