"""Whether a fusion that shows modalities of different cells judges each answer by the right label."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Fusion, Output, Progress
from wbcbench.testing.promise import promise
from wbcbench.testing.toys import toy_batch, toy_draw
from wbcbench.training.supervision import with_labels

_START = Progress(0, 1, 0, 1)


def check_answers_follow_images(fusion: Fusion) -> None:
    """Raise `BrokenPromise` if an answer comes from images of other cells than the one whose label it gets.

    Seen by gradients in training mode: the logits of row i must depend on the image of the labelled cell, in every
    modality where they depend on any image (dropped modalities are no mistake).
    """
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    shown = {m: x.requires_grad_() for m, x in _shown(batch, toy_batch(fusion.task).images).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = with_labels(fusion(shown), batch)
    for route, out in outputs.items():
        if not out.logits.requires_grad:
            continue
        for m, influence in _influence(out, shown).items():
            assert out.index is not None
            own = batch.cells_of(None if batch.rows is None else batch.rows[m])[None, :] == out.index[:, None]
            strayed = (influence.sum(1) > 0) & ((influence * own).sum(1) == 0)
            promise(
                not strayed.any(),
                f"In training, route '{route}' answers for cell {_first(out, strayed)} from the {m} image of "
                f"another cell ({int(strayed.sum())} of {len(strayed)} rows): label and image do not match.",
                "Mix cells in `assemble`, by `batch.rows`, and nowhere else; a route that reads several "
                "modalities needs the same cell in all of them, or says whose label it answers for by "
                "`Output(rows=...)`.",
                "assemble" if batch.rows is not None else "forward",
            )


def check_losses_follow_labels(fusion: Fusion) -> None:
    """Raise `BrokenPromise` if a row's task loss heeds the label of a cell that the row's route does not show."""
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    images = _shown(batch, toy_batch(fusion.task).images)
    fresh = toy_batch(fusion.task)
    promise(
        torch.equal(batch.cells, fresh.cells) and torch.equal(batch.labels, fresh.labels),
        "`assemble` changed `batch.cells` or `batch.labels`.",
        "Leave them; say by `batch.rows[modality]` which cell of the batch each row shows.",
        "assemble",
    )
    with torch.no_grad():
        outputs = fusion(images)
        before = fusion.task_terms(with_labels(outputs, batch), batch, _START)
        for cell in range(len(batch)):
            labels = batch.labels.clone()
            labels[cell] = (labels[cell] + 1) % fusion.task.n_classes
            changed = replace(batch, labels=labels)
            relabelled = with_labels(outputs, changed)
            after = fusion.task_terms(relabelled, changed, _START)
            for route in set(before) & set(outputs):
                rows = relabelled[route].rows
                shows = (torch.arange(len(batch)) if rows is None else rows) == cell
                if before[route].shape != shows.shape:
                    continue
                heeds = before[route] != after[route]
                promise(
                    not (heeds & ~shows).any(),
                    f"On route '{route}' the loss of {int((heeds & ~shows).sum())} rows that do not show cell "
                    f"{int(batch.cells[cell])} changes with that cell's label.",
                    "In `task_terms`, compare each route with its own `out.labels`, never with `batch.labels`.",
                    "task_terms",
                )


def _shown(batch: Batch, images: dict[str, Tensor]) -> dict[str, Tensor]:
    return {m: x.clone() if batch.rows is None else x[batch.rows[m]] for m, x in images.items()}


def _influence(out: Output, shown: dict[str, Tensor]) -> dict[str, Tensor]:
    """Modality that the route reads -> [R, R]: how much row i of the logits depends on row j of the images."""
    reads = [m for m in shown if m in out.reads]
    weights = torch.arange(1.0, out.logits.shape[1] + 1)  # plain sums of log-probabilities may not depend on much
    found: dict[str, list[Tensor]] = {m: [] for m in reads}
    for row in out.logits:
        gradients = torch.autograd.grad(
            (row * weights).sum(), [shown[m] for m in reads], retain_graph=True, allow_unused=True
        )
        for m, g in zip(reads, gradients, strict=True):
            found[m].append(torch.zeros(len(shown[m])) if g is None else g.abs().flatten(1).sum(1))
    return {m: torch.stack(rows) for m, rows in found.items()}


def _first(out: Output, rows: Tensor) -> int:
    assert out.index is not None
    return int(out.index[rows][0]) if rows.any() else -1


__all__ = ["check_answers_follow_images", "check_losses_follow_labels"]
