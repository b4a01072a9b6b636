"""What a student learns from: its labels, and its teachers through distillers and a routing."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from wbcbench.contracts import Batch, Distiller, Fusion, Outputs, PairShapes, Policy, Progress, Routing
from wbcbench.spec.lessons import Lesson
from wbcbench.training.teachers import TeacherBank


class Distillation(nn.Module):
    """Distillers applied to every lesson. Adapters of a route are the route's own.

    The dict key of a lesson's distillers is the route's name; a configured distiller is built once per
    route by `build`.
    """

    def __init__(
        self,
        distillers: dict[str, list[Distiller]],
        names: list[str],
        routing: Routing,
        lessons: tuple[Lesson, ...],
    ) -> None:
        super().__init__()
        self.names = names
        """Names of the configured distillers, in order."""
        self.routing = routing
        self.lessons = lessons
        self.by_route = nn.ModuleDict({route: nn.ModuleList(ds) for route, ds in distillers.items()})

    def setup(self, shapes: dict[str, PairShapes]) -> None:
        """Build every route's adapters; `shapes`: route -> shapes of student and teacher."""
        for route in self.by_route:
            for distiller in self.of(route):
                distiller.setup(shapes[route])

    def of(self, route: str) -> list[Distiller]:
        """The distillers of one route, in the order configured."""
        return list(cast("nn.ModuleList", self.by_route[route]))  # type: ignore[arg-type]

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
            for name, distiller in zip(self.names, self.of(lesson.route), strict=True):
                for term, value in self.routing.teach(distiller, student, teachers, progress).items():
                    terms[f"{name}.{term}.{lesson.route}"] = value.mean() * distiller.params.weight
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


def pair_shapes(
    student: Outputs,
    teachers: list[Outputs | None],
    lessons: tuple[Lesson, ...],
    n_classes: int,
    cells: Tensor,
) -> dict[str, PairShapes]:
    """Route -> shapes of its student and its first teacher, from one probe batch each."""
    shapes = {}
    for lesson in lessons:
        s = student[lesson.route]
        probe = teachers[lesson.teachers[0]]
        t = None if probe is None else next(iter(probe.values()))
        shapes[lesson.route] = PairShapes(
            n_classes=n_classes,
            n_cells=len(cells),
            max_index=int(cells.max()),
            student_embedding=None if s.embedding is None else int(s.embedding.shape[1]),
            teacher_embedding=None if t is None or t.embedding is None else int(t.embedding.shape[1]),
            student_maps=tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in s.maps),
            teacher_maps=()
            if t is None
            else tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in t.maps),
        )
    return shapes


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of scalar terms."""
    return torch.stack(list(terms.values())).sum()
