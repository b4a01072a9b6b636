"""A backbone per modality: what is written, what is planned, what is refused, and what is built and taken away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wbcbench
from wbcbench.contracts import Task
from wbcbench.errors import UsageError
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Choice, Request
from wbcbench.testing.records import write_cells
from wbcbench.training.build import build_fusion

REGISTRY, _ = load_plugins()
WIDE, NARROW = "cellnet:width=8", "cellnet:width=4"
BOTH = f"brightfield={WIDE},nucleus={NARROW}"


def planned(*settings: str, **flags: Any) -> Plan:
    given = {"fusion": "late_prob", "modalities": "brightfield,nucleus", **flags}
    return make_plan(
        load_request(None, given, ("dataset.cells=100", "dataset.image_size=16", *settings)), REGISTRY
    )


def trials(role: str = "student", *settings: str, **flags: Any) -> list[Trial]:
    return [p.trial for p in planned(*settings, **flags).trials if p.role == role]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("resnet18,cellnet:width=8", ["resnet18", "cellnet"]),
        ("a=resnet18,b=cellnet:width=8", [{"a": "resnet18", "b": "cellnet"}]),
        ("cellnet,a=resnet18,b=cellnet,a=cellnet,b=x", ["cellnet", {"a": "resnet18", "b": "cellnet"},
                                                         {"a": "cellnet", "b": "x"}]),
        ({"a": "resnet18", "b": {"name": "cellnet", "width": 8}}, [{"a": "resnet18", "b": "cellnet"}]),
        ([{"a": "x", "b": "y"}, "z"], [{"a": "x", "b": "y"}, "z"]),
        ("resnet18:checkpoint=a=b.pth", ["resnet18"]),
    ],
)  # fmt: skip
def test_ways_of_writing(written: Any, expected: list[Any]) -> None:
    request = load_request(None, {"backbone": written})
    found = [b.name if isinstance(b, Choice) else {m: c.name for m, c in b.items()} for b in request.backbone]
    assert found == expected
    assert Request.model_validate(request.model_dump(mode="json")) == request


def test_equal_backbones_are_one_and_a_single_modality_has_its_own() -> None:
    (plain,), (twice,) = trials(backbone=WIDE), trials(backbone=f"brightfield={WIDE},nucleus={WIDE}")
    assert plain.id == twice.id
    (one,), (other,) = trials(backbone=BOTH), trials(backbone=f"nucleus={NARROW},brightfield={WIDE}")
    assert one.id == other.id != plain.id
    assert Trial.model_validate_json(one.model_dump_json()).id == one.id
    assert one.method.backbone_name == "brightfield=cellnet:width=8,nucleus=cellnet:width=4"
    singles = trials(fusion="single", backbone=BOTH)
    assert [s.id for s in singles] == [
        trials(fusion="single", modalities=m, backbone=b)[0].id
        for m, b in (("brightfield", WIDE), ("nucleus", NARROW))
    ]
    assert trials(fusion="majority", backbone=BOTH)[0].id == trials(fusion="majority")[0].id
    teachers = trials("teacher", kd="logits", teacher=BOTH)
    assert [(t.reads, t.method.backbone_name) for t in teachers] == [
        (("brightfield",), "cellnet"),
        (("nucleus",), "cellnet"),
    ]
    assert [t.id for t in teachers] == [s.id for s in singles]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"backbone": f"brightfeld={WIDE},nucleus={NARROW}"}, "Did you mean 'brightfield'"),
        ({"backbone": f"brightfield={WIDE}"}, r"none for nucleus\. Add nucleus=NAME"),
        ({"backbone": f"{BOTH},granule=cellnet"}, "got one for 'granule'"),
        ({"fusion": "early", "backbone": BOTH}, "share a trunk or exchange maps.*concat.*late_prob"),
        ({"fusion": "mid_concat", "backbone": BOTH}, "share a trunk or exchange maps"),
        ({"fusion": "thin_ensemble", "backbone": f"brightfield=resnet18,nucleus={WIDE}"}, "cannot be scaled"),
        ({"kd": "logits", "teacher": "nucleus=cellnet"}, r"teacher\.backbone: .*none for brightfield"),
    ],
)
def test_refused_while_planning(flags: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(**flags)


def test_a_teacher_that_shares_a_trunk_is_refused_too() -> None:
    with pytest.raises(UsageError, match="Fusion 'early' needs one backbone"):
        planned("teacher.fusion=early", kd="logits", teacher=BOTH)


def test_an_exclusion_means_every_modality() -> None:
    both = {"backbone": f"{WIDE},{BOTH}"}
    for rule, left in (
        ({"backbone": WIDE}, ["brightfield=cellnet:width=8,nucleus=cellnet:width=4"]),
        ({"backbone": BOTH}, ["cellnet"]),
    ):
        plan = planned(**both, exclude=[rule])
        assert [p.trial.method.backbone_name for p in plan.trials] == left


def test_networks_are_built_of_what_was_chosen_for_each() -> None:
    (both,), (wide,), (narrow,) = trials(backbone=BOTH), trials(backbone=WIDE), trials(backbone=NARROW)
    task = Task({"brightfield": 3, "nucleus": 1}, ("a", "b"), 16)
    counts = []
    for trial in (both, wide, narrow):
        fusion = build_fusion(trial, task, REGISTRY)
        named = list(fusion.named_parameters())
        counts.append([sum(p.numel() for n, p in named if f".{m}." in n) for m in task.channels])
    assert counts[0] == [counts[1][0], counts[2][1]]


def test_trained_named_predicted_exported_and_reported(tmp_path: Path, invoke: Callable[..., Any]) -> None:
    cells, store = write_cells(tmp_path / "cells.npz", cells=60), tmp_path / "store"
    more = {"dataset.path": str(cells), "dataset.modalities.u": [0], "dataset.modalities.v": [1], "threads": 1}
    done = wbcbench.run(
        fusion="concat", dataset="npz", backbone=f"u={WIDE},v={NARROW},u={NARROW},v={WIDE},{NARROW}", epochs=1,
        device="cpu", store=store, set=more, progress=False,
    )  # fmt: skip
    first, second, plain = done.records
    assert plain.result.cost.params < first.result.cost.params
    assert None not in (first.result.cost.macs, plain.result.cost.macs)
    assert [(c.kind, c.name) for c in first.result.components].count(("backbone", "cellnet")) == 1
    rows = wbcbench.leaderboard(store=store).boards[0].rows
    assert {r.backbone for r in rows} == {first.result.backbone, second.result.backbone, "cellnet"}
    assert all(r.backbone in r.name for r in rows)
    where = {"store": store, "set": {"dataset.path": str(cells)}}
    assert len(wbcbench.predict(first.trial.id, cells, progress=False, **where).frame()) == 60
    exported = wbcbench.export(first.trial.id, tmp_path / "out", format="safetensors", **where)
    assert exported.agreement.largest < 1e-5
    assert wbcbench.report(first.trial.id, tmp_path / "r.html", **where)
    code, out, err = invoke(
        "leaderboard", "effects", "--of", "backbone", "--against", "cellnet", "--store", str(store)
    )
    assert code == 0, err
    assert first.result.backbone in out
