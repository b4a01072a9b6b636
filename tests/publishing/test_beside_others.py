"""A stranger's records beside each other, and beside a store that is trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.schema import OutsideTeacher
from wbcbench.records.store import Record, Store
from wbcbench.spec import Trial
from wbcbench.spec.trial import Outside
from wbcbench.testing.records import (
    blamed,
    fake_outcome,
    fake_predictions,
    fake_record,
    fake_trial,
    forge,
    rezip,
    said,
    unzip,
)

Verify = Callable[..., Judge]
Arrays = dict[str, Any]
P = "test_probabilities"


def shuffled(arrays: Arrays) -> Arrays:
    order = np.random.default_rng(0).permutation(30)
    return {n: a[order] if n.startswith("test_") else a for n, a in arrays.items()}


@pytest.mark.parametrize("how", ["as they are", "in another order"])
def test_another_methods_answers(store: Store, student: Record, tmp_path: Path, verify: Verify, how: str) -> None:
    arrays = dict(student.predictions) if how == "as they are" else shuffled(dict(student.predictions))
    thief = fake_record(Store(tmp_path / "thief"), fake_trial(0, fusion="mine"), predictions=arrays)
    write_pack([thief], tmp_path / "thief.zip")
    judge = verify(tmp_path / "thief.zip", store)
    assert blamed(judge) == {"reference.duplicates"}
    assert "the same test predictions" in said(judge, "reference.duplicates")
    both = [thief, student]
    write_pack(both, tmp_path / "both.zip")
    assert blamed(verify(tmp_path / "both.zip")) == {"pack.duplicates"}


def test_another_methods_answers_with_a_little_noise(
    store: Store, student: Record, tmp_path: Path, verify: Verify
) -> None:
    p = student.predictions[P]
    noisy = (p + np.float32(1e-4)) / (p + np.float32(1e-4)).sum(axis=1, keepdims=True)
    thief = fake_record(
        Store(tmp_path / "thief"), fake_trial(0, fusion="mine"), predictions=dict(student.predictions) | {P: noisy}
    )
    write_pack([thief], tmp_path / "thief.zip")
    assert "reference.duplicates" in blamed(verify(tmp_path / "thief.zip", store), "look")


def _noisy(p: Any, how: str) -> Any:
    rng = np.random.default_rng(1)
    changed = {
        "uniform": lambda: p + rng.uniform(-0.01, 0.01, p.shape),
        "normal": lambda: p + rng.normal(0, 0.01, p.shape),
        "temperature": lambda: p**1.3,
        "another training": lambda: fake_predictions(99, cells=len(p), skill=3)[P],
    }[how]()
    positive = np.clip(changed, 1e-6, None)
    return (positive / positive.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("how", "found"), [("uniform", True), ("normal", True), ("temperature", True), ("another training", False)]
)
def test_noise_of_a_hundredth_is_found(
    store: Store, tmp_path: Path, verify: Verify, how: str, found: bool, seeds: int
) -> None:
    """By the distance of honest seeds where there are some; else by a fixed one, which a temperature escapes."""
    own = [fake_record(store, seed=s, predictions=fake_predictions(s, cells=300, skill=3)) for s in range(seeds)]
    arrays = dict(own[0].predictions)
    thief = fake_record(
        Store(tmp_path / "thief"), fake_trial(0, fusion="mine"), predictions=arrays | {P: _noisy(arrays[P], how)}
    )
    write_pack([thief], tmp_path / "thief.zip")
    judge = verify(tmp_path / "thief.zip", store)
    assert ("reference.duplicates" in blamed(judge, "look")) == (found and (how, seeds) != ("temperature", 1))
    both = [thief, own[0]]
    write_pack(both, tmp_path / "both.zip")
    assert ("pack.duplicates" in blamed(verify(tmp_path / "both.zip"), "look")) == (how in ("uniform", "normal"))


@pytest.mark.parametrize(
    ("teacher", "claims", "why"),
    [
        ({"fingerprint": "e" * 16}, {}, "whose fingerprint is not its student's"),
        ({"split": {"scheme": "stratified", "seed": 1}}, {}, "whose split is not its student's"),
        ({"split": {"allow_leaks": True}}, {}, "whose split is not its student's"),
        ({"dataset": {"name": "other"}}, {}, "whose dataset is not its student's"),
        ({"fold": 1}, {}, "whose fold is not its student's"),
        ({"split": {"scheme": "stratified", "seed": 1}, "fold": 2}, {}, "whose split, fold are not its student's"),
        ({}, {"split": "t" * 16}, "another division of the cells"),
        ({"image_size": 32}, {}, ""),
        ({"budget": {"epochs": 9}}, {}, ""),
    ],
)
def test_teachers_of_other_cells(
    store: Store, tmp_path: Path, verify: Verify, teacher: dict[str, Any], claims: dict[str, Any], why: str
) -> None:
    one = fake_trial(7, fusion="single", modalities=("dapi",), **teacher)
    fake_record(store, one, 70, **claims)
    two = fake_trial(8, fusion="single", modalities=("dapi",), teachers=(one,), kd="logits")
    for student in (fake_trial(teachers=(one,), kd="logits"), fake_trial(teachers=(two,), kd="logits")):
        record = fake_record(store, two, 71) and fake_record(store, student)
        write_pack([record], tmp_path / "pack.zip")
        judge = verify(tmp_path / "pack.zip")
        assert why in said(judge, "pack.teachers")
        assert ("pack.teachers" in blamed(judge)) == bool(why)


def test_folds_of_one_split_have_other_test_cells(store: Store, tmp_path: Path, verify: Verify) -> None:
    def fold(number: int) -> Record:
        arrays = fake_predictions(number)
        cells = {n: a + 100 * number for n, a in arrays.items() if n.endswith("_cells")}
        trial = fake_trial(fold=number, split={"scheme": "kfold"})
        return fake_record(store, trial, predictions=arrays | cells)

    write_pack([fold(0), fold(1)], tmp_path / "pack.zip")
    assert blamed(verify(tmp_path / "pack.zip")) == set()
    assert blamed(verify(tmp_path / "pack.zip", store)) == set()


@pytest.mark.parametrize(
    ("trained_on", "verdict"),
    [(None, "look"), ({"train": 9, "val": 0, "test": 0}, "look"), ({"train": 9, "val": 0, "test": 3}, "refuse")],
)
def test_a_teacher_from_outside_that_saw_test_cells(
    store: Store, tmp_path: Path, verify: Verify, trained_on: dict[str, int] | None, verdict: str
) -> None:
    trial = fake_trial()
    own = Outside(name="forest", digest="d" * 64, reads=trial.reads)
    taught = Trial(protocol=trial.protocol, method=trial.method.model_copy(update={"outside": (own,)}))
    arrays = fake_predictions(routes=trial.reads)
    answered = {"train": 9, "val": 0, "test": 0}
    stated = OutsideTeacher(name="forest", digest="d" * 64, answered=answered, trained_on=trained_on, metrics={})
    outcome = fake_outcome(taught, arrays).model_copy(update={"outside": [stated]})
    record = store.write(
        taught, outcome, predictions=arrays, model=b"x", history=[{"epoch": 0}], environment={"python": "3.11"}
    )
    write_pack([record], tmp_path / "pack.zip")
    judge = verify(tmp_path / "pack.zip")
    assert "pack.teachers" in blamed(judge, verdict), [f.text for f in judge.findings]


def submission(tmp_path: Path, trial: Any, predictions: Arrays, **outcome: Any) -> Path:
    record = fake_record(Store(tmp_path / "strange"), trial, predictions=predictions, **outcome)
    write_pack([record], tmp_path / "strange.zip")
    return tmp_path / "strange.zip"


def test_other_labels_of_the_test_cells(store: Store, student: Record, tmp_path: Path, verify: Verify) -> None:
    predictions = fake_predictions(5)
    labels = predictions["test_labels"].copy()
    labels[:2] = labels[:2][::-1]
    judge = verify(submission(tmp_path, fake_trial(5), predictions | {"test_labels": labels}), store)
    assert blamed(judge) == {"reference.labels"}
    assert "2 of 30 test cells have another label" in said(judge, "reference.labels")


@pytest.mark.parametrize("side", ["test", "val"])
def test_other_cells(store: Store, student: Record, tmp_path: Path, verify: Verify, side: str) -> None:
    """Easier cells under the same split hash."""
    predictions = fake_predictions(5)
    predictions[f"{side}_cells"] = predictions[f"{side}_cells"] + 1
    judge = verify(submission(tmp_path, fake_trial(5), predictions), store)
    assert blamed(judge) == {"reference.labels"}
    assert "cells are not the same" in said(judge, "reference.labels")


def test_fewer_test_cells(store: Store, student: Record, tmp_path: Path, verify: Verify) -> None:
    fewer = {n: a[:24] if n.startswith("test") else a for n, a in fake_predictions(5).items()}
    judge = verify(submission(tmp_path, fake_trial(5), fewer), store)
    assert "cells are not the same (24 and 30 cells)" in said(judge, "reference.labels")


def test_records_of_a_pack_that_disagree(store: Store, tmp_path: Path, verify: Verify) -> None:
    predictions = fake_predictions(6)
    labels = (predictions["test_labels"] + 1) % 3
    records = [fake_record(store, fake_trial(5), 5)]
    records.append(fake_record(store, fake_trial(6), predictions=predictions | {"test_labels": labels}))
    write_pack(records, tmp_path / "two.zip")
    assert blamed(verify(tmp_path / "two.zip")) == {"pack.labels"}


def test_another_split_of_the_same_cells(store: Store, student: Record, tmp_path: Path, verify: Verify) -> None:
    pack = submission(tmp_path, fake_trial(5), fake_predictions(5))
    files = unzip(pack)
    forge(files, fake_trial(5).id, {"key.split": "e" * 16})
    rezip(pack, files)
    judge = verify(pack, store)
    assert blamed(judge) == {"reference.split"}
    assert "for these cells it must be" in said(judge, "reference.split")


def test_other_classes(store: Store, student: Record, tmp_path: Path, verify: Verify) -> None:
    pack = submission(tmp_path, fake_trial(5), fake_predictions(5))
    files = unzip(pack)
    names = ["eosinophil", "basophil", "lymphocyte"]
    document = json.loads(files[f"records/{fake_trial(5).id}/result.json"])
    scores = dict(zip(names, document["per_class"].values(), strict=True))
    forge(files, fake_trial(5).id, {"key.classes": names, "per_class": scores})
    rezip(pack, files)
    judge = verify(pack, store)
    assert "other classes" in said(judge, "reference.labels")


def test_a_jump_above_every_reference_method(store: Store, tmp_path: Path, verify: Verify) -> None:
    for seed in range(3):
        fake_record(store, fake_trial(seed), seed, skill=0.5)
    judge = verify(submission(tmp_path, fake_trial(0, fusion="oracle"), fake_predictions(77, skill=4.0)), store)
    assert judge.verdict == "needs a look"
    (finding,) = [f for f in judge.findings if f.check == "reference.jump"]
    assert "above the best reference method" in finding.text
    weak = verify(
        submission(tmp_path / "b", fake_trial(0, fusion="modest"), fake_predictions(78, skill=0.5)), store
    )
    assert weak.findings == []


def test_every_cell_right_is_pointed_out(tmp_path: Path, verify: Verify) -> None:
    labels = fake_predictions()["test_labels"]
    right = fake_predictions() | {P: np.eye(3, dtype=np.float32)[labels]}
    judge = verify(submission(tmp_path, fake_trial(), right))
    assert "record.perfect" in blamed(judge, "look")


def test_the_same_trial_with_other_predictions(store: Store, tmp_path: Path, verify: Verify) -> None:
    fake_record(store, fake_trial(0), 0)
    judge = verify(submission(tmp_path, fake_trial(0), fake_predictions(1)), store)
    assert "irreproducible" in " ".join(f.text for f in judge.findings if f.check == "reference.same_trial")


def test_code_from_elsewhere_is_pointed_out(tmp_path: Path, verify: Verify) -> None:
    judge = verify(submission(tmp_path, fake_trial(), fake_predictions(), provider="stranger"))
    assert "record.origin" in blamed(judge, "look")


def sealed(store: Store) -> Record:
    validation = {n: a for n, a in fake_predictions(3).items() if n.startswith("val_")}
    return fake_record(store, fake_trial(3).seal(), predictions=validation)


def test_a_reference_store_with_sealed_records_judges_as_without(
    store: Store, student: Record, pack: Path, verify: Verify
) -> None:
    sealed(store)
    assert verify(pack, store).verdict == "accept"


def test_a_sealed_record_is_no_submission(
    store: Store, student: Record, tmp_path: Path, verify: Verify, invoke: Any
) -> None:
    record = sealed(store)
    code, _, err = invoke("submit", record.trial.id, "--store", str(store.root), "-o", str(tmp_path / "s.zip"))
    assert code == 2
    assert "sealed" in err
    write_pack([record], tmp_path / "sealed.zip")
    judge = verify(tmp_path / "sealed.zip", store)
    assert blamed(judge) == {"record.schema"}
    assert "sealed" in said(judge, "record.schema")


@pytest.mark.parametrize(
    ("theirs", "mine", "part"),
    [
        (None, np.zeros(30, dtype=np.int64), "only the first has the groups"),
        (np.arange(30) // 3, None, "only the second has the groups"),
        (np.arange(30) // 3, np.arange(30) // 15, "27 of 30 test cells are of another group"),
        (np.arange(30) // 3, np.arange(30) // 3, ""),
    ],
)
def test_other_groups_of_the_test_cells(
    store: Store, tmp_path: Path, verify: Verify, theirs: Any, mine: Any, part: str
) -> None:
    """Whoever chooses what is resampled decides how wide every row's interval is."""
    fake_record(
        store, fake_trial(0), predictions=fake_predictions(0) | ({} if theirs is None else {"test_groups": theirs})
    )
    own = fake_predictions(5) | ({} if mine is None else {"test_groups": mine})
    order = np.random.default_rng(0).permutation(30)
    own = {n: a[order] if n.startswith("test_") else a for n, a in own.items()}
    judge = verify(submission(tmp_path, fake_trial(5), own), store)
    assert blamed(judge) == ({"reference.labels"} if part else set())
    assert part in said(judge, "reference.labels")


def test_records_of_a_pack_agree_on_groups(store: Store, tmp_path: Path, verify: Verify) -> None:
    records = [fake_record(store, fake_trial(5), 5)]
    records.append(
        fake_record(
            store, fake_trial(6), predictions=fake_predictions(6) | {"test_groups": np.zeros(30, np.int64)}
        )
    )
    write_pack(records, tmp_path / "two.zip")
    assert blamed(verify(tmp_path / "two.zip")) == {"pack.labels"}
