"""The task loss: every route is supervised with the labels of the cells that it was shown."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Fusion, Output, Outputs, PairShapes, Policy, Progress, masked_mean


def with_labels(outputs: Outputs, batch: Batch) -> Outputs:
    """Give every route the labels and cell ids of the cells that it was shown; cast to float32.

    `batch.present` states what the rows were actually shown: [R, M], in the order of the images' rows.
    """
    ready: Outputs = {}
    for route, out in outputs.items():
        out = out.float()
        out.inputs = {m: x for m, x in batch.images.items() if m in out.reads}
        out.shown = batch.shown(out.reads)
        if out.shown is not None and out.rows is not None and batch.rows is None:
            out.shown = out.shown[out.rows]  # the fusion itself reordered rows of the batch
        if out.rows is None and batch.rows is not None:
            out.rows = rows_of(batch.rows, out.reads)
        out.labels, out.index = batch.labels_of(out.rows), batch.cells_of(out.rows)
        ready[route] = out
    return ready


def rows_of(rows: dict[str, Tensor], reads: frozenset[str]) -> Tensor:
    """The rows that determine a route's labels.

    For a head of one modality, that modality's rows. A route that reads several has one label only if they
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

    A route's term is the mean over the rows in which it was shown something: `Output.shown`.

    `weights`: [K], mean 1 over the training cells.
    """
    batch.class_weights = weights
    terms = fusion.task_terms(outputs, batch, progress)
    for route, out in outputs.items():
        if out.shown is not None and route in terms and terms[route].ndim:
            terms[route] = masked_mean(terms[route], out.shown)
    for policy in policies:
        terms = policy.task_terms(terms, outputs, batch, progress)
    reduced = {}
    for name, value in terms.items():
        labels = outputs[name].labels if name in outputs else None
        if value.ndim and labels is not None:
            value = value * weights[labels]
        reduced[name] = value.mean()
    return reduced


def pair_shapes(student: Output, teacher: Output, n_classes: int, cells: Tensor, labels: Tensor) -> PairShapes:
    """The shapes of a student route and a teacher, from one probe output of each.

    `cells`: [n] training ids; `labels`: [N] of all cells.
    """
    size = int(cells.max()) + 1
    known = torch.full((size,), -1, dtype=torch.int64, device=labels.device)
    known[cells] = labels[cells]
    return PairShapes(
        n_classes=n_classes,
        n_cells=len(cells),
        max_index=size - 1,
        cell_labels=known,
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
