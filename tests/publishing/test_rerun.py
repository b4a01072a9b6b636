"""`leaderboard verify --rerun`: a pack's training is done again, on cells that the user names."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.evaluation.metrics import evaluate
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.rerun import chain, misfits
from wbcbench.records.store import Record, Store
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import ComponentSpec, Trial
from wbcbench.spec.load import request_from
from wbcbench.testing.components import registry
from wbcbench.testing.records import fake_outcome, unzip, write_cells

Invoke = Callable[..., tuple[int, str, str]]
Rerun = Callable[..., tuple[int, str, str]]
Train = Callable[..., dict[str, Any]]

FUSIONS = sorted(c.name for c in registry().components("fusion") if c.name != "knn")  # which needs trained weights


@pytest.fixture
def rerun(invoke: Invoke, cells_file: Path) -> Rerun:
    def call(pack: Path, *sets: str, cells: Path = cells_file, json: bool = False) -> tuple[int, str, str]:
        found = (
            *["--json"] * json,
            "--set",
            f"dataset.path={cells}",
            *(part for s in sets for part in ("--set", s)),
        )
        return invoke("leaderboard", "verify", str(pack), "--rerun", "--device", "cpu", *found)

    return call


@pytest.fixture
def trained(train: Train, tmp_path: Path) -> Record:
    train("--fusion", "early", "--kd", "none")
    (folder,) = (tmp_path / "store" / "records").iterdir()
    return Store(tmp_path / "store").load(folder.name)


def test_an_honest_training_comes_out_bit_for_bit(trained: Record, rerun: Rerun, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    write_pack([trained], pack)
    code, out, err = rerun(pack)
    assert code == 0, out + err
    assert "bitwise equal predictions" in out
    other = write_cells(tmp_path / "other.npz", seed=99)
    code, _, err = rerun(pack, cells=other)
    assert code == 2
    assert "Expected the cells that the pack was made from" in err
    code, _, err = rerun(pack, "fusion.x=1")
    assert code == 2
    assert "--set with dataset.* only" in err


def test_numbers_that_no_training_gave_are_refused(trained: Record, rerun: Rerun, tmp_path: Path) -> None:
    """Consistent in themselves, so that only training again tells. (The cells are easy: here they are worse.)"""
    arrays = dict(trained.predictions)
    classes = len(trained.result.key.classes)
    for side in ("test", "val"):
        wrong = np.eye(classes, dtype=np.float32)[(arrays[f"{side}_labels"] + 1) % classes]
        arrays[f"{side}_probabilities"] = 0.9 * wrong + 0.1 * arrays[f"{side}_probabilities"]
    outcome = fake_outcome(trained.trial, trained.predictions)  # costs and times that pass
    claimed = outcome.model_copy(
        update={
            **{name: getattr(trained.result, name) for name in ("key", "components", "selected_epoch", "cost")},
            **evaluate(arrays, trained.result.key.classes),
        }
    )
    store = Store(tmp_path / "forged")
    history = [{"epoch": e} for e in range(trained.result.cost.epochs_run)]
    forged = store.write(
        trained.trial, claimed, predictions=arrays, model=b"x", history=history, environment={"python": "3.11"}
    )
    write_pack([forged], tmp_path / "forged.zip")
    assert len(unzip(tmp_path / "forged.zip")) == 6
    code, out, _ = rerun(tmp_path / "forged.zip")
    assert code == 3
    assert "the difference exceeds the tolerance of 0.02" in out


def _planned(fusion: str, kd: str) -> Plan:
    """The plan of a fusion with a distiller, on as many modalities as the fusion takes."""
    pair = fusion in FUSIONS and registry().declared("fusion", fusion).fusion_traits.arity[1] == 2
    few = {"modalities": ["brightfield", "nucleus"]} if pair else {}
    return make_plan(request_from({"dataset": "synthetic", "fusion": fusion, "kd": kd, **few}), registry())


ONCE = [f for f in FUSIONS if registry().declared("fusion", f).solved_once]
TAUGHT = [f for f in FUSIONS if f not in ONCE]


@pytest.mark.parametrize(
    ("fusion", "kd"),
    [*product(TAUGHT, ("logits", "dkd")), *product(ONCE, ("none",)), ("early:impute=token", "none")],
)
def test_nothing_that_the_planner_writes_is_refused(fusion: str, kd: str) -> None:
    plan = _planned(fusion, kd)
    for planned in plan.trials:
        trial = Trial.model_validate_json(planned.trial.model_dump_json())  # as in spec.json
        problems = [p for one in chain(trial) for p in misfits(one.trial, plan.description, registry())]
        assert problems == [], planned.trial.title


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [*FUSIONS, "independent:unmix=true", "early:impute=token"])
def test_an_honest_pack_of_any_fusion_passes(fusion: str, train: Train, rerun: Rerun, tmp_path: Path) -> None:
    document = train("--fusion", fusion, "--kd", "none", "--epochs", "1")
    write_pack([Store(tmp_path / "store").load(document["records"][0]["trial_id"])], tmp_path / "pack.zip")
    code, out, err = rerun(tmp_path / "pack.zip")
    assert code == 0, out + err
    assert "bitwise equal predictions" in out


def test_teachers_and_every_kind_of_component_pass(train: Train, rerun: Rerun, tmp_path: Path) -> None:
    document = train("--fusion", "independent", "--kd", "logits", "--policy", "modality_dropout", "--epochs", "1")
    store = Store(tmp_path / "store")
    (student,) = (r for r in document["records"] if r["role"] == "student")
    write_pack([store.load(student["trial_id"])], tmp_path / "pack.zip")
    code, out, err = rerun(tmp_path / "pack.zip", json=True)
    assert code == 0, out + err
    assert set(json.loads(out)["reproduced"]) == {r["trial_id"] for r in document["records"]}
    assert "3 trials with the teachers" in err
    assert "bitwise equal predictions" in out


@pytest.mark.parametrize(
    ("kind", "name", "changed", "why"),
    [
        ("fusion", "independent", {"unmix": False}, "not in the form that wbcbench writes"),
        ("fusion", "independent", {"rho": "0.5"}, "not in the form that wbcbench writes"),
        ("fusion", "independent", {"depth": 2}, "'depth' is not a known key"),
        ("fusion", "early", {"impute": "mean"}, "not in the form that wbcbench writes"),
        ("fusion", "early", {"impute": ["token"]}, "no imputer is called"),
        ("fusion", "independent", {"impute": "token"}, "handles absent modalities itself"),
        ("backbone", "cellnet", {"impute": "token"}, "'impute' is not a known key"),
        ("backbone", "resnet10t", {"checkpoint": "/etc/hostname"}, "reads a file of the original machine"),
    ],
)
def test_parameters_that_no_plan_writes_are_refused(
    kind: str, name: str, changed: dict[str, Any], why: str
) -> None:
    plan = make_plan(request_from({"dataset": "synthetic", "kd": "none", kind: name}), registry())
    trial = plan.trials[0].trial
    assert list(misfits(trial, plan.description, registry())) == []
    spec = getattr(trial.method, kind)
    forged = trial.method.model_copy(update={kind: ComponentSpec(name=spec.name, params=spec.params | changed)})
    problems = list(misfits(Trial(protocol=trial.protocol, method=forged), plan.description, registry()))
    assert {verdict for verdict, _ in problems} == {"refuse"}
    assert any(why in text for _, text in problems), problems
