"""Cells that lack a modality: they train no head of it, neither by labels nor by lessons."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Output, Outputs, Progress, ReplacesHead, TakesStep
from wbcbench.contracts.needs import RouteTeachers
from wbcbench.evaluation.predict import Predictions
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import ToyBoth, build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.distillation import Distillation
from wbcbench.training.supervision import pair_shapes, task_loss, total, with_labels

CLASSES = 5
ROWS = 10
START = Progress(1, 3, 0, 1, toy_draw())


def lacking(v: list[int], u: tuple[int, ...] = ()) -> Tensor:
    present = torch.ones(ROWS, 2, dtype=torch.bool)
    present[v, 1] = False
    present[list(u), 0] = False
    return present


def step(fusion: Any, present: Tensor | None, labels: Tensor | None = None) -> tuple[dict[str, Tensor], Outputs]:
    """Task terms of one step without policies, as the loop makes it, with images that know their absence."""
    batch = replace(toy_batch(fusion.task, cells=ROWS), present=present)
    if labels is not None:
        batch.labels = labels
    images = batch.images
    batch = fusion.assemble(batch, toy_draw())
    if batch.rows is not None:
        batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        if batch.present is not None:
            batch.present = torch.stack([batch.present[batch.rows[m], i] for i, m in enumerate(images)], 1)
    outputs = with_labels(fusion(batch.images, batch.present), batch)
    return task_loss(fusion, [], outputs, batch, torch.ones(fusion.task.n_classes), START), outputs


@pytest.mark.parametrize("name", ["late_prob", "independent", "centralnet", "mixmo"])
def test_labels_of_cells_without_the_modality_do_not_train_its_head(name: str) -> None:
    """The loss of head v is blind to the labels of cells that lack v, in whichever rows they are shown."""
    fusion = build_toy(component_class("fusion", name), toy_task(2, classes=CLASSES)).train()
    present, labels = lacking([1, 4, 5]), torch.arange(ROWS) % CLASSES
    changed = torch.where(present[:, 1], labels, (labels + 1) % CLASSES)
    (before, _), (after, _) = step(fusion, present, labels), step(fusion, present, changed)
    assert torch.equal(before["v"], after["v"])
    assert not torch.equal(before["u"], after["u"])


def test_the_loss_is_the_mean_over_the_rows_that_show_the_modality() -> None:
    fusion = build_toy(component_class("fusion", "independent"), toy_task(2, classes=CLASSES), rho=0.0).train()
    present = lacking([0, 3, 7, 8])
    terms, outputs = step(fusion, present)
    out = outputs["v"]
    assert out.rows is not None
    assert out.labels is not None
    there = present[out.rows, 1]
    assert 0 < int(there.sum()) < ROWS
    assert not torch.equal(out.rows, torch.arange(ROWS)), "the head's rows are a permutation of its own"
    loss = F.cross_entropy(out.logits, out.labels, reduction="none")
    assert torch.allclose(terms["v"], loss[there].mean())


def test_a_joint_route_learns_from_every_row_that_shows_anything() -> None:
    fusion = build_toy(ToyBoth, toy_task(2, classes=CLASSES)).train()
    present = lacking([1, 2], u=(2, 3))
    terms, outputs = step(fusion, present)
    loss = F.cross_entropy(outputs["joint"].logits, outputs["joint"].labels, reduction="none")
    assert torch.allclose(terms["joint"], loss[[0, 1, 3, 4, 5, 6, 7, 8, 9]].mean())


def test_a_batch_without_the_modality_gives_zero_and_a_gradient_path() -> None:
    fusion = build_toy(component_class("fusion", "late_prob"), toy_task(2, classes=CLASSES)).train()
    terms, _ = step(fusion, lacking(list(range(ROWS))))
    assert terms["v"] == 0
    assert terms["u"] > 0
    total(terms).backward()  # type: ignore[no-untyped-call]
    assert all((p.grad == 0).all() for p in fusion.networks.heads["v"].parameters())  # type: ignore[union-attr]


def test_all_there_is_bit_for_bit_as_without_a_word_of_presence() -> None:
    fusion = build_toy(ToyBoth, toy_task(2, classes=CLASSES)).train()
    (told, _), (untold, _) = step(fusion, lacking([])), step(fusion, None)
    assert all(torch.equal(told[k], untold[k]) for k in untold)


class Bank:
    """One teacher for all routes, with everything to give."""

    def __init__(self, shown: Tensor | None = None, seed: int = 9) -> None:
        teacher = build_toy(component_class("fusion", "single"), toy_task(1, classes=CLASSES), seed=seed).eval()
        with torch.no_grad():
            (out,) = teacher(toy_batch(toy_task(1), cells=ROWS).images, maps=True).values()
        self.output = replace(out, shown=shown)

    def answers(self, cells: Tensor) -> list[Output]:
        return [self.output]


def lessons(name: str, present: Tensor | None, bank: Any, **params: Any) -> tuple[dict[str, Tensor], Any]:
    """What distiller `name` says to the two heads of late fusion; and the student's outputs."""
    cls, matched = component_class("distiller", name), component_class("routing", "matched")
    fusion = build_toy(component_class("fusion", "late_prob"), toy_task(2, classes=CLASSES)).train()
    batch = toy_batch(fusion.task, cells=ROWS)
    batch = replace(batch, present=present, cells=torch.arange(ROWS))
    pairs = tuple(RouteTeachers(r, (0,)) for r in fusion.routes) if cls.needs.taught_by == "teacher" else ()
    kd = Distillation(lambda: [cls(cls.Params(**params))], lambda: matched(matched.Params()), pairs, fusion.routes)
    with torch.no_grad():
        probe = fusion.eval()(batch.images, None, True)

    def shapes(route: str, source: str) -> Any:
        other = bank.output if source.isdigit() else probe.get(source, probe[route])
        return pair_shapes(probe[route], other, CLASSES, torch.arange(ROWS), batch.labels)

    torch.manual_seed(0)
    kd.setup(fusion, shapes)
    outputs = with_labels(fusion.train()(batch.images, batch.present, True), batch)
    averaged = {} if kd.average is None else with_labels(kd.average(batch.images, present), batch)
    return kd.terms(outputs, bank, batch, START, averaged), fusion


def test_a_lesson_per_row_is_the_mean_over_the_rows_that_show_the_modality() -> None:
    bank, present = Bank(), lacking([0, 2, 3])
    found, _ = lessons("logits", present, bank, weight=1.0)
    there = present[:, 1]
    twin = Bank()
    twin.output = replace(twin.output, logits=torch.where(there[:, None], twin.output.logits, 77.0))
    assert torch.allclose(found["logits.kl.v"], lessons("logits", present, twin, weight=1.0)[0]["logits.kl.v"])
    whole = lessons("logits", None, bank, weight=1.0)[0]
    assert torch.equal(found["logits.kl.u"], whole["logits.kl.u"])
    assert not torch.allclose(found["logits.kl.v"], whole["logits.kl.v"])


@pytest.mark.parametrize("name", ["rkd", "sp", "cc_gaussian", "pkt"])
def test_a_lesson_of_relations_sees_only_rows_that_show_the_modality(name: str) -> None:
    present = lacking([0, 2, 3, 9])
    bank, other = Bank(), Bank()
    there = present[:, 1, None]
    other.output = replace(
        other.output,
        logits=torch.where(there, other.output.logits, 7.0),
        embedding=torch.where(there, other.output.embedding, 7.0),  # type: ignore[arg-type]
        maps=tuple(torch.where(there[..., None, None], m, 7.0) for m in other.output.maps),
    )
    first, second = lessons(name, present, bank)[0], lessons(name, present, other)[0]
    mine = [k for k in first if k.endswith(".v")]
    assert mine
    assert all(torch.equal(first[k], second[k]) for k in mine)


def test_a_teacher_that_was_shown_nothing_teaches_nothing() -> None:
    seen = torch.arange(ROWS) % 2 == 0
    bank, other = Bank(seen), Bank(seen)
    other.output = replace(other.output, logits=torch.where(seen[:, None], other.output.logits, 50.0))
    first, second = (lessons("logits", None, b)[0] for b in (bank, other))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_peers_do_not_teach_what_they_were_not_shown() -> None:
    present = lacking([0, 2, 3, 9])
    found, fusion = lessons("dml", present, Bank())
    out = fusion(toy_batch(fusion.task, cells=ROWS).images, present)
    t, s = (out[m].logits[present[:, 1]] for m in "vu")
    expected = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")
    assert torch.allclose(found["dml.kl.u"], expected, atol=1e-5)


@pytest.mark.parametrize("count", [2, 1, 0])
def test_every_distiller_stays_finite_with_few_rows(count: int) -> None:
    for component in registry().components("distiller"):
        cls = component_class("distiller", component.name)
        if component.name == "none" or issubclass(cls, ReplacesHead | TakesStep) or cls.needs.inputs:
            continue  # what differentiates in images has a live teacher: tests/training/test_hooks.py
        params = {"negatives": 4} if component.name == "crd" else {}
        terms, fusion = lessons(component.name, lacking(list(range(ROWS - count))), Bank(), **params)
        wrong = [k for k, v in terms.items() if not torch.isfinite(v) or (not count and k[-1] == "v" and v != 0)]
        assert not wrong, f"{component.name}: {wrong}"
        if terms and total(terms).requires_grad:
            total(terms).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters()), component.name


def test_validation_losses_are_of_the_cells_shown() -> None:
    p = np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)
    given = {"cells": np.arange(2), "labels": np.zeros(2, np.int64), "probabilities": p}
    found = Predictions(**given, routes={"u": p, "v": p, "w": p}, shown={"v": np.array([True, False]),
                        "w": np.zeros(2, bool)}).losses()  # fmt: skip
    assert found["u"] == pytest.approx(-np.log([0.5, 0.9]).mean())
    assert found["v"] == pytest.approx(-np.log(0.5))
    assert found["w"] == 0


def test_what_is_always_dropped_is_never_trained(train: Callable[..., dict[str, Any]]) -> None:
    """Whole trials: with v dropped from every row its head learns neither from labels nor from its teacher."""
    args = ("--fusion", "late", "--kd", "logits", "--policy", "modality_dropout", "--set", "policy.rate=0")
    document = train(*args, "--set", "policy.rates.v=1", "--epochs", "1", "--set", "teacher.epochs=1")
    (path,) = [r["path"] for r in document["records"] if r["role"] == "student"]
    with open(Path(path) / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["task.v"]) == float(row["logits.kl.v"]) == 0
    assert float(row["task.u"]) > 0
    assert float(row["logits.kl.u"]) > 0
