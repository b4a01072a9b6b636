"""A distiller's loss on given tensors: the one door for golden values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, Output, PairShapes, Progress
from wbcbench.testing.components import component_class

START = Progress(epoch=0, epochs=1, step=0, steps=1)


def evaluate_distiller(
    name: Any,
    student: Output | Mapping[str, Any],
    teacher: Output | Mapping[str, Any],
    labels: Tensor | None = None,
    progress: Progress = START,
    **params: Any,
) -> Tensor:
    """The summed, unweighted loss of a distiller on given tensors, differentiable in the student's.

    Args:
        name: a registered name, or a class.
        student, teacher: an `Output`, or a mapping with `logits` [B, K], `embedding` [B, D], `maps` (a
            list of [B, C, H, W]) and `head` (a callable, or weights [K, D]); what is not given is left out.
        labels: [B] int64.
        progress: how far training is, for distillers with a schedule.
        params: the distiller's parameters.
    """
    cls = component_class("distiller", name)
    s, t = _output(student, labels), _output(teacher, labels)
    distiller: Distiller = cls(cls.Params(**params))
    distiller.to(s.logits.dtype)
    distiller.setup(shapes_of(s, t))
    distiller.to(s.logits.dtype)
    terms = distiller.terms(s, t, progress)
    return torch.stack([v.mean() for v in terms.values()]).sum() if terms else s.logits.sum() * 0


def shapes_of(student: Output, teacher: Output) -> PairShapes:
    """The shapes of a pair of outputs."""

    def width(x: Tensor | None) -> int | None:
        return None if x is None else int(x.shape[1])

    def stages(maps: tuple[Tensor, ...]) -> tuple[tuple[int, int, int], ...]:
        return tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in maps)

    rows, classes = student.logits.shape
    return PairShapes(
        n_classes=int(classes),
        n_cells=int(rows),
        max_index=int(rows) - 1,
        student_embedding=width(student.embedding),
        teacher_embedding=width(teacher.embedding),
        student_maps=stages(student.maps),
        teacher_maps=stages(teacher.maps),
        cell_labels=student.labels if student.labels is not None else torch.zeros(rows, dtype=torch.int64),
        key="route/0",
    )


def _output(value: Output | Mapping[str, Any], labels: Tensor | None) -> Output:
    if isinstance(value, Output):
        out = value
    else:
        maps = tuple(value.get("maps") or ())
        given = [x for x in (value.get("logits"), value.get("embedding"), *maps) if x is not None]
        logits = value.get("logits")
        if logits is None:  # a loss on embeddings or maps alone still gets logits of the right batch
            logits = torch.zeros(len(given[0]), 2, dtype=given[0].dtype)
        head = value.get("head")
        if isinstance(head, Tensor):  # a classifier given by its weights [K, D]
            weights = head
            head = partial(F.linear, weight=weights)
        out = Output(logits=logits, embedding=value.get("embedding"), maps=maps, head=head)
    if labels is not None:
        out.labels = labels
    if out.index is None:
        out.index = torch.arange(len(out.logits))
    return out


__all__ = ["START", "evaluate_distiller", "shapes_of"]
