"""A distiller's loss on given tensors, and inputs that are easy to recompute: used to check golden values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, Output, PairShapes, Progress
from wbcbench.testing.components import component_class


def grid(*shape: int) -> list[Tensor]:
    """Index tensors of a shape, float64: one per axis."""
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    return list(torch.meshgrid(*axes, indexing="ij"))


def closed_forms() -> dict[str, Tensor]:
    """All inputs by name; `z` logits, `f` embeddings, `F` maps, `_s` student, `_t` teacher."""
    i, j = grid(4, 5)
    n, k = grid(4, 6)
    b, c, h, w = grid(4, 3, 4, 4)
    head_row, head_column = grid(5, 6)
    bank, dim = grid(8, 6)
    f_t = torch.cos(0.8 * n - 0.7 * k)
    mem_t = F.normalize(torch.cos(0.7 * bank - 0.8 * dim + 0.13 * bank * dim), dim=1)
    return {
        "y": torch.tensor([0, 2, 4, 1]),
        "z_s": torch.sin(1.7 * i + 0.9 * j),
        "z_t": 2 * torch.cos(0.6 * i - 1.3 * j),
        "z_t2": 2 * torch.cos(0.9 * i + 0.7 * j),
        "z_t3": 1.5 * torch.sin(0.4 * i - 1.1 * j + 0.5),
        "f_s": torch.sin(0.5 * n + 1.1 * k),
        "f_t": f_t,
        "f_t2": torch.cos(0.3 * n + 0.9 * k),
        "f_t3": torch.sin(1.2 * n - 0.5 * k + 0.4),
        "F_s": torch.sin(0.3 * b + 0.7 * c + 1.1 * h + 0.5 * w),
        "F_t": torch.cos(0.9 * b - 0.4 * c + 0.6 * h - 1.2 * w),
        "F2_s": torch.sin(0.2 * b - 0.5 * c + 0.4 * h + 0.9 * w),
        "F2_t": torch.cos(0.1 * b + 0.8 * c - 0.3 * h + 0.7 * w),
        **{f"W{m}": 0.5 * torch.cos(0.6 * head_row + 0.4 * head_column + 0.8 * m) for m in (1, 2, 3)},
        "mem_s": F.normalize(torch.sin(0.9 * bank + 0.6 * dim + 0.11 * bank * dim), dim=1),
        "mem_t": mem_t,
        "crd_idx": torch.tensor([[0, 1, 2, 3], [5, 0, 7, 4], [2, 6, 1, 0], [7, 3, 5, 6]]),
        "logvar": 0.3 * torch.sin(0.6 * n - 0.9 * k),
        "bn_weight": torch.tensor([0.8, -1.2, 0.3], dtype=torch.float64),
        "bn_bias": torch.tensor([0.1, -0.4, 1.5], dtype=torch.float64),
        "queue": torch.cat([F.normalize(f_t, dim=1), mem_t[:4]]),
    }


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
