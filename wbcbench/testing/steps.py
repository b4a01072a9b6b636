"""One training step as the loop makes it, for tests of policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Fusion, Outputs, Policy, Progress
from wbcbench.training.supervision import task_loss, total, with_labels


def policy_step(
    fusion: Fusion,
    policies: list[Policy],
    batch: Batch,
    progress: Progress,
    lessons: Callable[[Outputs, Batch], Tensor] | None = None,
    maps: bool = False,
) -> tuple[dict[str, Tensor], Outputs, Batch]:
    """One training step as the loop makes it, without the optimiser: task terms, outputs, the batch shown.

    Args:
        fusion: in training mode.
        policies: set up.
        batch: with the images of its cells.
        progress: of training.
        lessons: what distillers add to the loss (scalar), from outputs and batch.
        maps: ask the fusion for stage maps.

    Returns:
        As above; gradients are left in the parameters.
    """
    images = batch.images
    batch = fusion.assemble(batch, progress.draw)
    for policy in policies:
        batch = policy.assemble(batch, progress.draw)
    if batch.rows is not None:
        batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        if batch.present is not None:
            columns = [batch.present[batch.rows[m], i] for i, m in enumerate(images)]
            batch.present = torch.stack(columns, 1)
    for policy in policies:
        batch = policy.images(batch, progress.draw)

    def run(images: dict[str, Tensor], present: Tensor | None, maps: bool = False) -> Outputs:
        return with_labels(fusion(images, present, maps), replace(batch, present=present))

    outputs = run(batch.images, batch.present, maps)
    for policy in policies:
        policy.after_forward(run, outputs, batch, progress)
    weights = torch.ones(fusion.task.n_classes)
    terms = task_loss(fusion, policies, outputs, batch, weights, progress)
    rest = torch.zeros(()) if lessons is None else lessons(outputs, batch)
    if not any(policy.backward(terms, rest, fusion) for policy in policies):
        (total(terms) + rest).backward()  # type: ignore[no-untyped-call]
    for policy in policies:
        policy.after_backward(fusion, outputs, batch, progress)
    return terms, outputs, batch


__all__ = ["policy_step"]
