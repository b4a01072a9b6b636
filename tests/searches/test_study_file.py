"""A study file: its parts are what `run` and `search` make of the same words, and it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.searches.studies import plan_part, read_study
from wbcbench.spec.load import load_request

Invoke = Callable[..., tuple[int, str, str]]
SMOKE = Path(__file__).parents[2] / "configs" / "studies" / "smoke.yaml"


def write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_a_part_is_what_run_makes_of_the_same_words(tmp_path: Path) -> None:
    common = {"dataset": {"name": "synthetic", "cells": 300}, "teacher": {"backbone": "cellnet", "epochs": 2}}
    own = {"fusion": ["early", "gmu"], "kd": ["none", "logits"], "teacher": {"epochs": 3}, "seeds": [0, 1]}
    study = write(tmp_path / "study.yaml", {"common": common, "parts": {"a": own, "b": {"dataset": "synthetic"}}})
    a, b = read_study(study, {"store": "elsewhere"}, ("training.lr=0.01",))
    both = {**common, **own, "teacher": {"backbone": "cellnet", "epochs": 3}}
    alone = load_request(write(tmp_path / "alone.yaml", both), {"store": "elsewhere"}, ("training.lr=0.01",))
    assert a.request == alone
    assert b.request.dataset.params == {"cells": 300}, "the same data set keeps its parameters"
    registry = load_plugins()[0]
    planned = plan_part(a, registry).plan
    assert planned is not None
    assert [p.trial.id for p in planned.trials] == [p.trial.id for p in make_plan(alone, registry).trials]


def test_another_data_set_does_not_inherit_parameters(tmp_path: Path) -> None:
    common = {"dataset": {"name": "synthetic", "cells": 300}}
    study = write(
        tmp_path / "s.yaml", {"common": common, "parts": {"a": {"dataset": {"name": "npz", "path": "x"}}}}
    )
    assert read_study(study)[0].request.dataset.params == {"path": "x"}


def test_another_backbone_does_not_inherit_parameters(tmp_path: Path) -> None:
    small = {"name": "cellnet", "width": 6, "stem_stride": 2}
    resnet = {"backbone": {"name": "timm", "model": "test_resnet"}}
    parts = {"a": resnet, "b": {"backbone": {"width": 4}}, "c": {"teacher": resnet}, "d": {"backbone": "timm"}}
    a, b, c, d = read_study(write(tmp_path / "s.yaml", {
        "common": {"backbone": small, "teacher": {"backbone": small, "epochs": 9}}, "parts": parts,
    }))  # fmt: skip
    assert a.request.backbone[0].params == {"model": "test_resnet"}
    assert b.request.backbone[0].params == {"width": 4, "stem_stride": 2}
    assert c.request.teacher.epochs == 9
    (teacher,) = c.request.teacher.backbone
    assert (teacher.name, teacher.params) == ("timm", {"model": "test_resnet"})
    assert d.request.backbone[0].params == {}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"comon": {}, "parts": {"a": {}}}, "Did you mean 'common'"),
        ({"common": {}}, "expected `parts`"),
        ({"parts": {"a": [1]}}, "parts.a"),
        ({"parts": {"a": {"fusoin": "early"}}}, "a: 'fusoin' is not a known key"),
        ({"parts": "matr"}, "expected key: value pairs in 'parts', but got 'matr'"),
        ({"parts": {"a": {"space": {"training.lr": "log(1e-3,1e-2)"}}}}, "`search:` together with `space:`"),
        ({"parts": {"a": {"search": {"trails": 3}}}}, "trails"),
        ({"parts": {"a": {}, "b": {"finalists": {"of": "A"}}}}, "Did you mean 'a'"),
        ({"parts": {"b": {"finalists": {"of": "a"}}, "a": {}}}, "There are: none"),
        ({"parts": {"a": {}, "b": {"finalists": {"of": "a", "cuont": 3}}}}, "cuont"),
        ({"parts": {"a": {}, "b": {"finalists": "a"}}}, "key: value pairs in 'finalists'"),
    ],
)
def test_slips_are_named(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_study(write(tmp_path / "study.yaml", document))


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UsageError, match=r"no part 'matrx'\. Did you mean 'matrix'"):
        read_study(SMOKE, only=["matrx"])


def test_what_does_not_go_together_is_left_out_and_said(tmp_path: Path) -> None:
    words = {"fusion": ["early", "film"], "dataset": {"name": "synthetic", "cells": 300}}
    registry = load_plugins()[0]
    with pytest.raises(UsageError, match="film"):
        make_plan(load_request(write(tmp_path / "a.yaml", words)), registry)
    plan = make_plan(load_request(write(tmp_path / "b.yaml", {**words, "incompatible": "skip"})), registry)
    assert [p.trial.label for p in plan.trials] == ["early"]
    assert [n for n in plan.notes if n.startswith("Left out: film with none.")]
    nothing = {**words, "fusion": "film", "incompatible": "skip"}
    with pytest.raises(UsageError, match=r"no combination is compatible.*film"):
        make_plan(load_request(write(tmp_path / "c.yaml", nothing)), registry)


@pytest.mark.slow
def test_the_smoke_study_runs_part_by_part_and_goes_on(tmp_path: Path, invoke: Invoke) -> None:
    store = tmp_path / "store"
    args = [
        "study",
        str(SMOKE),
        "--store",
        str(store),
        "--device",
        "cpu",
        "--executor",
        "inline",
        "--set",
        "threads=1",
    ]
    code, out, err = invoke(*args, "--dry-run", "--json")
    assert code == 0, err
    before = json.loads(out)
    assert {name: part["done"] for name, part in before["parts"].items()} == dict.fromkeys(before["parts"], 0)
    assert "film" not in str(before["notes"]), "two modalities suit film"

    code, _, err = invoke(*args, "--only", "two_modalities", "--json")
    assert code == 0, err
    digests = {r.trial.id: r.result.digest for r in Store(store).scan()[0]}
    assert len(digests) == 2

    code, out, err = invoke(*args, "--json")
    assert code == 0, err
    parts = {p["name"]: p for p in json.loads(out)["parts"]}
    assert [r["status"] for r in parts["two_modalities"]["records"]] == ["cached", "cached"]
    assert {r["fusion"] for r in parts["search"]["records"]} == {"early", "independent"}
    assert all(r["seed"] == 0 for r in parts["search"]["records"])
    assert digests.items() <= {r.trial.id: r.result.digest for r in Store(store).scan()[0]}.items()

    finalists = parts["more_seeds"]["records"]
    status = {(r["fusion"], r["kd"], r["seed"]): r["status"] for r in finalists if r["role"] == "student"}
    methods = {key[:2] for key in status}
    assert "independent" in {fusion for fusion, _ in methods}
    assert len(methods) <= 2
    assert status == {(*m, seed): "cached" if seed == 0 else "done" for m in methods for seed in (0, 1)}
    scores = {
        (r.trial.method.fusion.name, r.trial.method.kd): r.result.metrics["val"]["macro_f1"]
        for r in map(
            Store(store).load, [r["trial_id"] for r in parts["matrix"]["records"] if r["role"] == "student"]
        )
    }
    best = max(scores.values())
    assert any(scores[m] == best for m in methods), "the best by validation goes on"
    own = [v for (fusion, _), v in scores.items() if fusion == "independent"]
    assert any(scores[m] == max(own) for m in methods if m[0] == "independent"), "with its best distillation"

    code, out, err = invoke(*args, "--dry-run", "--json")
    after = json.loads(out)["parts"]
    assert before["parts"].pop("more_seeds")["waits"] > 0, "nobody knew yet which"
    assert after.pop("more_seeds")["waits"] == 0
    assert all(part["done"] == part["trials"] == before["parts"][name]["trials"] for name, part in after.items())


def test_students_are_examined_where_that_is_asked_for(tmp_path: Path, invoke: Invoke) -> None:
    common = {
        "dataset": {"name": "synthetic", "cells": 120, "image_size": 16},
        "budget": {"epochs": 1},
        "modalities": ["brightfield", "nucleus"],
        "backbone": {"name": "cellnet", "width": 4},
        "store": str(tmp_path / "store"),
    }
    parts = {
        "plain": {"fusion": "early", "kd": "none"},
        "searched": {"fusion": "late", "kd": "none", "search": {"trials": 1, "winner_seeds": [0]}},
    }
    study = write(tmp_path / "study.yaml", {"common": common, "parts": parts})
    args = ("study", str(study), "--device", "cpu", "--executor", "inline", "--set", "threads=1", "--json")
    code, out, err = invoke(*args)
    assert code == 0, err
    assert "evaluations" not in json.loads(out)["parts"][0]
    assert not (tmp_path / "store" / "evaluations").exists()
    for _ in range(2):  # trained already; the second time examined already, too
        code, out, err = invoke(*args, "--evaluate", "full")
        assert code == 0, err
        found = {p["name"]: p["evaluations"] for p in json.loads(out)["parts"]}
        ids = {e["trial_id"] for entries in found.values() for e in entries}
        assert {name: [e["method"] for e in entries] for name, entries in found.items()} == {
            "plain": ["early"], "searched": ["late_prob"],
        }  # fmt: skip
        assert {p.stem for p in (tmp_path / "store" / "evaluations").glob("*.json")} == ids
    code, out, err = invoke(*args[:-1], "--evaluate", "full")
    assert "worst subset" in out


def test_a_failed_part_does_not_stop_the_others(tmp_path: Path, invoke: Invoke) -> None:
    common = {"dataset": {"name": "synthetic", "cells": 120, "image_size": 16}, "budget": {"epochs": 1}}
    small = {"backbone": {"name": "cellnet", "width": 4}, "fusion": "early", "store": str(tmp_path / "store")}
    parts = {"broken": {"fusion": "faulty:how=nan"}, "sound": {}}
    (tmp_path / "plugins").mkdir()
    shutil.copy(Path(__file__).parents[1] / "faults" / "faulty.py", tmp_path / "plugins")
    study = write(tmp_path / "study.yaml", {"common": common | small, "parts": parts})
    where = ("--plugins-dir", str(tmp_path / "plugins"), "--device", "cpu", "--executor", "inline")
    code, out, err = invoke("study", str(study), *where, "--set", "threads=1")
    assert code == 1, (out, err)
    assert "broken: 0 trained, 0 already in the store, 1 FAILED" in out
    assert "sound: 1 trained" in out
