"""What a student learns from: its labels, and its teachers through distillers and a routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from wbcbench.contracts import Batch, Distiller, Fusion, Output, Outputs, PairShapes, Policy, Progress, Routing
from wbcbench.spec.lessons import Lesson
from wbcbench.training.teachers import TeacherBank


class Distillation(nn.Module):
    """Distillers applied to every lesson; each pair of a route and a teacher has adapters of its own."""

    def __init__(
        self, build: Callable[[], list[Distiller]], names: list[str], routing: Routing, lessons: tuple[Lesson, ...]
    ) -> None:
        """`build` makes one fresh distiller per name."""
        super().__init__()
        self.names = names
        """Names of the configured distillers, in order."""
        self.routing = routing
        self.lessons = lessons
        self.pairs = nn.ModuleDict(
            {f"{lesson.route}/{i}": nn.ModuleList(build()) for lesson in lessons for i in lesson.teachers}
        )

    def setup(self, shapes: Callable[[str, int], PairShapes]) -> None:
        """Build every pair's adapters; `shapes(route, teacher)`."""
        for lesson in self.lessons:
            for i in lesson.teachers:
                for distiller in self.of(lesson.route, i):
                    distiller.setup(shapes(lesson.route, i))

    def of(self, route: str, teacher: int) -> list[Distiller]:
        """The distillers between a route and a teacher, in the order configured."""
        return list(cast("nn.ModuleList", self.pairs[f"{route}/{teacher}"]))  # type: ignore[arg-type]

    def terms(self, outputs: Outputs, bank: TeacherBank, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Weighted scalar terms, named `distiller.term.route`. Losses in float32."""
        answers = bank.answers(batch.cells)
        terms: dict[str, Tensor] = {}
        for lesson in self.lessons:
            student = outputs[lesson.route]
            teachers = []
            for i in lesson.teachers:
                teacher = answers[i].select(student.rows)
                teacher.labels, teacher.index = student.labels, student.index
                teachers.append(teacher)
            per_teacher = [self.of(lesson.route, i) for i in lesson.teachers]
            for name, distillers in zip(self.names, zip(*per_teacher, strict=True), strict=True):
                weight = distillers[0].params.weight
                for term, value in self.routing.teach(distillers, student, teachers, progress).items():
                    terms[f"{name}.{term}.{lesson.route}"] = value.mean() * weight
        return terms


def with_labels(outputs: Outputs, batch: Batch) -> Outputs:
    """Give every route the labels and cell ids of the cells that it was shown; cast to float32."""
    ready: Outputs = {}
    for route, out in outputs.items():
        out = out.float()
        if out.rows is None and batch.rows is not None:
            out.rows = rows_of(batch.rows, out.reads)
        out.labels, out.index = batch.labels_of(out.rows), batch.cells_of(out.rows)
        ready[route] = out
    return ready


def rows_of(rows: dict[str, Tensor], reads: frozenset[str]) -> Tensor:
    """The rows that a route's label follows.

    A head of one modality follows that modality. A route that reads several has one label only if they
    all show the same cell; a fusion whose joint route mixes cells must set `Output.rows` itself.
    """
    return rows[min(reads)]


def task_loss(
    fusion: Fusion,
    policies: list[Policy],
    outputs: Outputs,
    batch: Batch,
    weights: Tensor,
    progress: Progress,
) -> dict[str, Tensor]:
    """Scalar task terms, one per route (or as the fusion names them), class-weighted per route.

    `weights`: [K], mean 1 over the training cells.
    """
    terms = fusion.task_terms(outputs, batch, progress)
    for policy in policies:
        terms = policy.task_terms(terms, outputs, batch, progress)
    reduced = {}
    for name, value in terms.items():
        labels = outputs[name].labels if name in outputs else None
        if value.ndim and labels is not None:
            value = value * weights[labels]
        reduced[name] = value.mean()
    return reduced


def pair_shapes(student: Output, teacher: Output, n_classes: int, cells: Tensor) -> PairShapes:
    """The shapes of a student route and a teacher, from one probe output each; `cells`: [n] training ids."""
    return PairShapes(
        n_classes=n_classes,
        n_cells=len(cells),
        max_index=int(cells.max()),
        student_embedding=_width(student.embedding),
        teacher_embedding=_width(teacher.embedding),
        student_maps=tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in student.maps),
        teacher_maps=tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in teacher.maps),
    )


def _width(embedding: Tensor | None) -> int | None:
    return None if embedding is None else int(embedding.shape[1])


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of scalar terms."""
    return torch.stack(list(terms.values())).sum()
