"""Distillers at work: where teachers come from, combinations, transforms, and steps of their own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wbcbench.contracts import Output
from wbcbench.records.store import Store
from wbcbench.training.distillation import same_cells

Train = Callable[..., dict[str, Any]]
SGD = ("--set", "training.optimiser=sgd", "--set", "training.lr=0.05")


def student(document: dict[str, Any]) -> dict[str, Any]:
    (only,) = [r for r in document["records"] if r["role"] == "student"]
    return only


def columns(record: dict[str, Any]) -> list[dict[str, str]]:
    with open(Path(record["path"]) / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kd", ["dml", "mean_teacher"])
def test_a_student_that_teaches_itself_trains_no_teacher(train: Train, kd: str) -> None:
    document = train("--fusion", "independent", "--kd", kd)
    assert [r["role"] for r in document["records"]] == ["student"]
    record = student(document)
    assert record["cost"]["teacher_replayed"] is None
    plain = student(train("--fusion", "independent", "--kd", "none"))
    assert record["digest"] != plain["digest"]
    rows = columns(record)
    term = {"dml": "dml.kl.u", "mean_teacher": "mean_teacher.consistency.v"}[kd]
    assert float(rows[-1][term]) > 0


def test_peers_need_more_than_one_route(train: Train) -> None:
    document = train("--fusion", "early", "--kd", "dml", code=2)
    assert "single route" in document["stderr"]
    assert "independent" in document["stderr"]


@pytest.mark.parametrize("given", ["logits:weight=0.5,dml:weight=2", "logits:weight=0.5+dml:weight=2"])
def test_several_at_once_log_their_terms_by_name(train: Train, given: str) -> None:
    record = student(train("--fusion", "independent", "--kd", given))
    assert record["kd"] == "logits+dml"
    row = columns(record)[-1]
    parts = [float(row[c]) for c in ("logits.kl.u", "logits.kl.v", "dml.kl.u", "dml.kl.v", "task.u", "task.v")]
    assert float(row["loss"]) == pytest.approx(sum(parts), rel=1e-4)


def test_a_comma_list_without_weights_stays_a_list_of_alternatives(train: Train) -> None:
    document = train("--fusion", "independent", "--kd", "logits,dml")
    assert sorted(r["kd"] for r in document["records"] if r["role"] == "student") == ["dml", "logits"]


def test_dot_with_no_delta_is_sgd_without_nesterov(train: Train, tmp_path: Path) -> None:
    """Two momenta of equal decay add up to one: the same weights as plain momentum on the summed loss."""
    dot = student(train("--fusion", "independent", "--kd", "logits+dot:delta=0", *SGD, "--epochs", "1"))
    other = student(train("--fusion", "independent", "--kd", "logits+dot:delta=0.07", *SGD, "--epochs", "1"))
    assert dot["digest"] != other["digest"]

    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    q = torch.nn.Parameter(p.detach().clone())
    from wbcbench_plugins.distillers.dot import Dot

    mine = torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01)
    plain = torch.optim.SGD([q], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        Dot(Dot.Params(delta=0.0)).optimise(mine, (p**2).sum(), ((p - step) ** 2).sum())
        plain.zero_grad()
        ((q**2).sum() + ((q - step) ** 2).sum()).backward()
        plain.step()
    assert torch.allclose(p, q, atol=1e-6)


def test_dot_is_refused_alone_and_with_another_optimiser(train: Train) -> None:
    assert "combine it" in train("--kd", "dot", *SGD, code=2)["stderr"]
    assert "training.optimiser=sgd" in train("--kd", "logits+dot", code=2)["stderr"]


def test_a_combination_has_each_distiller_once(train: Train) -> None:
    assert "twice" in train("--kd", "logits+logits", code=2)["stderr"]


@pytest.mark.parametrize("kd", ["mean_teacher", "logits:weight=balanced+dot"])
def test_state_of_the_average_and_of_both_momenta_survives_a_restart(
    train: Train, kd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--fusion", "independent", "--kd", kd, *SGD, "--epochs", "3")
    whole = student(train(*args, store="whole"))
    from wbcbench.training import loop

    real, calls = loop.judge, []

    def stop(job: Any, state: Any) -> Any:
        calls.append(state.epoch)
        if job.distillation is not None and state.epoch == 2:
            raise KeyboardInterrupt
        return real(job, state)

    monkeypatch.setattr(loop, "judge", stop)
    train(*args, store="broken", code=130)
    monkeypatch.setattr(loop, "judge", real)
    resumed = student(train(*args, store="broken"))
    assert resumed["digest"] == whole["digest"]
    a, b = (Store(tmp_path / s).load(whole["trial_id"]).predictions for s in ("whole", "broken"))
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_peers_are_aligned_by_cell_whatever_rows_show_them() -> None:
    peer = Output(torch.arange(4.0)[:, None] * torch.ones(1, 3), rows=torch.tensor([2, 0, 1, 3]))
    mine = Output(torch.full((4, 3), 9.0), rows=torch.tensor([1, 3, 3, 0]))
    assert same_cells(peer, mine).logits[:, 0].tolist() == [2.0, 3.0, 3.0, 1.0]
    lacking = Output(peer.logits, rows=torch.tensor([0, 0, 1, 1]))
    # cell 3 is shown by no row of the peer: the student's own answer stands in
    assert same_cells(lacking, mine).logits[:, 0].tolist() == [3.0, 9.0, 9.0, 1.0]


def teachers(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [r for r in document["records"] if r["role"] == "teacher"]


def test_several_sizes_per_modality_all_teach(train: Train) -> None:
    document = train("--kd", "logits", "--teacher", "cellnet:width=6,cellnet:width=8", "--epochs", "1")
    assert len(teachers(document)) == 4
    assert student(document)["status"] == "done"


def test_an_assistant_is_taught_by_the_bigger_teacher(train: Train, tmp_path: Path) -> None:
    document = train(
        "--kd", "logits", "--teacher", "cellnet:width=6,cellnet:width=8", "--routing", "assistant", "--epochs", "1"
    )
    found = [Store(tmp_path / "store").load(r["trial_id"]).trial for r in teachers(document)]
    widths = [(t.method.backbone.params["width"], len(t.method.teachers)) for t in found]
    assert sorted(widths) == [(6, 1), (6, 1), (8, 0), (8, 0)]
    mine = Store(tmp_path / "store").load(student(document)["trial_id"]).trial
    assert [t.method.backbone.params["width"] for t in mine.method.teachers] == [6, 6]


def test_an_assistant_alone_is_refused(train: Train) -> None:
    assert "at least two teachers" in train("--kd", "logits", "--routing", "assistant", code=2)["stderr"]


def test_a_teacher_of_all_modalities_teaches_the_joint_route_and_single_heads(train: Train) -> None:
    for fusion in ("early", "independent"):
        document = train("--fusion", fusion, "--kd", "logits", "--set", "teacher.fusion=early", "--epochs", "1")
        (teacher,) = teachers(document)
        assert teacher["modalities"] == ["u", "v"]


@pytest.mark.parametrize("routing", ["mean", "ebkd", "ca_mkd", "aekd", "all_to_all", "recruit"])
def test_every_routing_trains_and_resumes(train: Train, routing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("--fusion", "independent", "--kd", "logits", "--routing", routing)
    whole = student(train(*args, store="whole"))
    from wbcbench.training import loop

    real = loop.judge

    def stop(job: Any, state: Any) -> Any:
        if job.distillation is not None and state.epoch == 1:
            raise KeyboardInterrupt
        return real(job, state)

    monkeypatch.setattr(loop, "judge", stop)
    train(*args, store="broken", code=130)
    monkeypatch.setattr(loop, "judge", real)
    assert student(train(*args, store="broken"))["digest"] == whole["digest"]


def test_logit_standardisation_under_another_distiller(train: Train) -> None:
    """`lskd+dkd` adds no loss of its own: DKD reads standardised logits, from one teacher or several."""
    for fusion in ("independent", "early"):
        record = student(train("--fusion", fusion, "--kd", "lskd+dkd", "--set", "kd.warmup=0", "--epochs", "1"))
        terms = [c for c in columns(record)[-1] if c.startswith(("lskd.", "dkd."))]
        assert terms
        assert all(t.startswith("dkd.") for t in terms)
        plain = student(train("--fusion", fusion, "--kd", "dkd", "--set", "kd.warmup=0", "--epochs", "1"))
        assert plain["digest"] != record["digest"]
    alone = student(train("--fusion", "independent", "--kd", "lskd", "--epochs", "1"))
    assert any(c.startswith("lskd.kl") for c in columns(alone)[-1])


def test_a_standardised_teacher_in_the_core_is_the_golden_one() -> None:
    """alpha TCKD + beta NCKD on standardised logits: 5.91512068843 (logit-standardization-KD, DKD.py)."""
    from wbcbench.contracts import Batch, PairShapes, Progress
    from wbcbench.contracts.needs import RouteTeachers
    from wbcbench.testing import closed_forms
    from wbcbench.testing.components import component_class
    from wbcbench.training.distillation import Distillation

    a = closed_forms()
    lskd, dkd, matched = (
        component_class(k, n) for k, n in (("distiller", "lskd"), ("distiller", "dkd"), ("routing", "matched"))
    )
    kd = Distillation(
        lambda: [lskd(lskd.Params()), dkd(dkd.Params(weight=1.0, warmup=0))],
        lambda: matched(matched.Params()),
        (RouteTeachers("joint", (0,)),),
        ("joint",),
    )
    kd.setup(torch.nn.Identity(), lambda *_: PairShapes(n_classes=5, n_cells=4, max_index=3))  # type: ignore[arg-type]

    class Bank:
        def answers(self, cells: torch.Tensor) -> list[Output]:
            return [Output(a["z_t"])]

    batch = Batch(cells=torch.arange(4), labels=a["y"])
    out = Output(a["z_s"], labels=a["y"])
    terms = kd.terms({"joint": out}, Bank(), batch, Progress(0, 1, 0, 1), {})  # type: ignore[arg-type]
    assert sum(v.item() for v in terms.values()) == pytest.approx(5.91512068843, rel=1e-9)
