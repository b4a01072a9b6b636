"""Every fusion with every distiller that the matrix allows: one training step on toy networks."""

from __future__ import annotations

import pytest
import torch

from wbcbench.contracts import Distiller, Output, Progress
from wbcbench.scheduling.matrix import compatibility
from wbcbench.spec.lessons import Lesson
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.distillation import Distillation
from wbcbench.training.heads import ReplacedHeads, teacher_classifier
from wbcbench.training.supervision import pair_shapes, task_loss, total, with_labels

MATRIX = {
    (r["first"].partition(":")[2], r["second"].partition(":")[2]): r["reason"]
    for r in compatibility(registry(), modalities=2, classes=5)
    if r["first"].startswith("fusion:") and r["second"].startswith("distiller:")
}
FUSIONS = sorted({f for f, _ in MATRIX})
DISTILLERS = sorted({d for _, d in MATRIX} - {"none"})


class Bank:
    """One teacher with everything to give, for the cells of the toy batch."""

    def __init__(self) -> None:
        teacher = build_toy(component_class("fusion", "single"), toy_task(1, classes=5), seed=9).eval()
        batch = toy_batch(toy_task(1, classes=5), cells=10)
        with torch.no_grad():
            (self.output,) = teacher(batch.images, maps=True).values()

    def answers(self, cells: torch.Tensor) -> list[Output]:
        return [self.output]


def step(fusion_name: str, distiller_name: str) -> None:
    """One step."""
    cls = component_class("fusion", fusion_name)
    task = toy_task(1 if cls.arity[1] == 1 else 2, classes=5)
    fusion, bank, batch = build_toy(cls, task).train(), Bank(), toy_batch(task, cells=10)
    batch.cells = torch.arange(10)
    chosen = component_class("distiller", distiller_name)
    matched = component_class("routing", "matched")
    routes = fusion.routes
    lessons = tuple(Lesson(r, (0,)) for r in routes) if chosen.needs.taught_by == "teacher" else ()
    kd = Distillation(
        lambda: [chosen(chosen.Params(**({"negatives": 4} if distiller_name == "crd" else {})))],
        lambda: matched(matched.Params()),
        lessons,
        routes,
    )
    images = dict(batch.images)
    with torch.no_grad():
        probe = fusion.eval()(images, None, True)
    fusion.train()

    def shapes(route: str, source: str):  # type: ignore[no-untyped-def]
        other = bank.output if source.isdigit() else probe.get(source, probe[route])
        return pair_shapes(probe[route], other, 5, torch.arange(10), batch.labels)

    kd.setup(fusion, shapes)
    if chosen.needs.head:
        heads = {p.route: teacher_classifier(bank.output) for p in kd.pairings}
        fusion = ReplacedHeads(fusion, {p.route: kd.of(p)[0] for p in kd.pairings}, heads).train()
    progress = Progress(1, 3, 0, 1, toy_draw())
    batch = fusion.assemble(batch, progress.draw)
    if batch.rows is not None:
        batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
    outputs = with_labels(fusion(batch.images, batch.present, True), batch)
    averaged = {} if kd.average is None else with_labels(kd.average(batch.images, None), batch)
    task_terms = task_loss(fusion, [], outputs, batch, torch.ones(5), progress)
    terms = kd.terms(outputs, bank, batch, progress, averaged)  # type: ignore[arg-type]
    loss = total({**task_terms, **terms})
    assert torch.isfinite(loss), f"{fusion_name} with {distiller_name}: {terms}"
    loss.backward()  # type: ignore[no-untyped-call]
    for p in (*fusion.parameters(), *kd.parameters()):
        assert p.grad is None or torch.isfinite(p.grad).all(), f"{fusion_name} with {distiller_name}"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_steps_with_every_distiller(fusion: str) -> None:
    for distiller in DISTILLERS:
        declared: type[Distiller] = component_class("distiller", distiller)
        if not MATRIX[fusion, distiller] and declared.role != "optimiser":
            step(fusion, distiller)


@pytest.mark.parametrize("name", FUSIONS)
def test_stage_maps_are_there_or_declared_missing(name: str) -> None:
    cls = component_class("fusion", name)
    if cls.trained == "once":
        return
    task = toy_task(1 if cls.arity[1] == 1 else 2, classes=5)
    fusion = build_toy(cls, task).eval()
    with torch.no_grad():
        outputs = fusion(toy_batch(task, cells=4).images, None, True)
    assert all(o.maps for o in outputs.values()) == cls.stage_maps
