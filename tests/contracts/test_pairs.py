"""Every fusion, and every policy, with every distiller that the matrix allows: one step on toy networks."""

from __future__ import annotations

from copy import deepcopy
from functools import cache, lru_cache

import pytest
import torch
from torch import Tensor

from wbcbench.contracts import (
    Batch,
    Distiller,
    Fusion,
    Output,
    Outputs,
    Progress,
    ReplacesHead,
    SolvedOnce,
    Task,
)
from wbcbench.contracts.needs import RouteTeachers
from wbcbench.scheduling.matrix import compatibility
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy, policy_step, set_up, toy_batch, toy_draw, toy_task
from wbcbench.training.build import ReplacedHeads, teacher_classifier
from wbcbench.training.distillation import Distillation
from wbcbench.training.supervision import pair_shapes, total, with_labels
from wbcbench.training.teachers import Teacher

ROWS = compatibility(registry(), modalities=2, classes=5)


def pairs(first: str, second: str) -> dict[tuple[str, str], str]:
    """Names of these kinds -> why they do not go together."""
    return {
        (r["first"].partition(":")[2], r["second"].partition(":")[2]): r["reason"]
        for r in ROWS
        if r["first"].startswith(f"{first}:") and r["second"].startswith(f"{second}:")
    }


MATRIX, OF_POLICIES = pairs("fusion", "distiller"), pairs("distiller", "policy")
OF_FUSIONS = pairs("fusion", "policy")
FUSIONS = sorted({f for f, _ in MATRIX})
DISTILLERS = sorted({d for _, d in MATRIX} - {"none"})
POLICIES = sorted({p for _, p in OF_POLICIES})


class Bank:
    """One teacher with everything to give, for the cells of the toy batch."""

    def __init__(self) -> None:
        teacher = build_toy(component_class("fusion", "single"), toy_task(1, classes=5), seed=9).eval()
        batch = toy_batch(toy_task(1, classes=5), cells=10)
        self.teacher = Teacher(("u",), "", lambda: teacher)
        with torch.no_grad():
            (self.output,) = teacher(batch.images, maps=True).values()

    def answers(self, batch: Batch) -> list[Output]:
        images = {m: x for m, x in batch.images.items() if m == "u" and x.requires_grad}
        return [self.teacher.look(images, None, True, True) if images else self.output]


@cache
def bank_of_all() -> Bank:
    return Bank()


@lru_cache(maxsize=2)
def built(fusion_name: str) -> tuple[Fusion, Outputs]:
    """A fusion, which is copied before it is changed, and its evaluation of the toy batch."""
    fusion = build_toy(component_class("fusion", fusion_name), task_of(fusion_name)).eval()
    with torch.no_grad():
        return fusion, fusion(toy_batch(fusion.task, cells=10).images, None, True)


def task_of(fusion_name: str) -> Task:
    return toy_task(1 if component_class("fusion", fusion_name).traits.arity[1] == 1 else 2, classes=5)


def step(fusion_name: str, distiller_name: str, *policy_names: str) -> None:
    """One step as the loop makes it."""
    original, probe = built(fusion_name)
    fusion, bank, batch = deepcopy(original).train(), bank_of_all(), toy_batch(original.task, cells=10)
    batch.cells = torch.arange(10)
    policies = [cls(cls.Params()) for cls in (component_class("policy", p) for p in policy_names)]
    for policy in policies:
        set_up(policy, fusion, 10)
    chosen = component_class("distiller", distiller_name)
    matched = component_class("routing", "matched")
    routes = fusion.routes
    taught = routes if chosen.needs.taught_by == "teacher" else ()
    if chosen.needs.inputs:  # the teacher reads `u`
        taught = tuple(r for r in routes if r in ("joint", "u"))
    lessons = tuple(RouteTeachers(r, (0,)) for r in taught)
    kd = Distillation(
        lambda: [chosen(chosen.Params(**({"negatives": 4} if distiller_name == "crd" else {})))],
        lambda: matched(matched.Params()),
        lessons,
        routes,
    )

    def shapes(route: str, source: str):  # type: ignore[no-untyped-def]
        other = bank.output if source.isdigit() else probe.get(source, probe[route])
        return pair_shapes(probe[route], other, 5, torch.arange(10), batch.labels)

    kd.setup(fusion, shapes)
    if issubclass(chosen, ReplacesHead):
        heads = {p.route: teacher_classifier(bank.output) for p in kd.pairings}
        fusion = ReplacedHeads(fusion, {p.route: kd.of(p)[0] for p in kd.pairings}, heads).train()
    progress = Progress(1, 3, 0, 1, toy_draw())

    def lessons_of(outputs: Outputs, batch: Batch) -> Tensor:
        averaged = {} if kd.average is None else with_labels(kd.average(batch.images, batch.present), batch)
        return total(kd.terms(outputs, bank, batch, progress, averaged))  # type: ignore[arg-type]

    terms, _, _ = policy_step(fusion, policies, batch, progress, lessons_of, maps=True, inputs=chosen.needs.inputs)
    told = " with ".join((fusion_name, distiller_name, *policy_names))
    assert all(torch.isfinite(t) for t in terms.values()), f"{told}: {terms}"
    grads = [p.grad for p in (*fusion.parameters(), *kd.parameters()) if p.grad is not None]
    assert grads, told
    assert all(torch.isfinite(g).all() for g in grads), told


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_steps_with_every_distiller(fusion: str) -> None:
    for distiller in DISTILLERS:
        declared: type[Distiller] = component_class("distiller", distiller)
        if not MATRIX[fusion, distiller] and declared.role != "optimiser":
            step(fusion, distiller)


@pytest.mark.slow
@pytest.mark.parametrize("distiller", DISTILLERS)
def test_steps_with_every_policy(distiller: str) -> None:
    """On the fusion that has all that policies want and distillers read."""
    declared: type[Distiller] = component_class("distiller", distiller)
    for policy in POLICIES:
        of_fusion = OF_FUSIONS["centralnet", policy]  # those that change features need another: test_hooks.py
        if not OF_POLICIES[distiller, policy] and not of_fusion and declared.role != "optimiser":
            step("centralnet", distiller, policy)


@pytest.mark.parametrize("name", FUSIONS)
def test_stage_maps_are_there_or_declared_missing(name: str) -> None:
    cls = component_class("fusion", name)
    if issubclass(cls, SolvedOnce):
        return
    outputs = built(name)[1]
    assert all(o.maps for o in outputs.values()) == cls.traits.stage_maps
