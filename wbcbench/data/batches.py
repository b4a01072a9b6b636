"""Batches of one epoch: which cells each step draws, and the images it shows."""

from __future__ import annotations

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Draw
from wbcbench.data.counter import permutation, uniform
from wbcbench.data.resident import ResidentCells
from wbcbench.data.views import EpochViews


def epoch_order(train: Tensor, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Cell ids of each step. Every training cell once; step sizes differ by at most one.

    Equal steps, rather than a short last one, so that no batch is too small for batch statistics and
    no cell is dropped from a small set.
    """
    steps = max(1, -(-len(train) // batch_size))
    return torch.tensor_split(permutation(train, seed, "order", epoch), steps)


def step_draw(seed: int, epoch: int, step: int, device: torch.device) -> Draw:
    """The random numbers that `assemble` may ask for in one step."""

    def key(salt: str, n: int) -> Tensor:
        return uniform(seed, "assemble", epoch, step, salt, torch.arange(n, device=device))

    return Draw(key)


def draw_batch(cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...]) -> Batch:
    """A batch of the given cells, before the fusion has assembled it (no images yet)."""
    present = cells.present(ids, modalities)
    return Batch(cells=ids, labels=cells.labels[ids], present=present, modalities=modalities)


def fill_images(batch: Batch, views: EpochViews, modalities: tuple[str, ...]) -> Batch:
    """Make the images that each row shows: [R, C, S, S] per modality, channels last in memory."""
    for m in modalities:
        rows = None if batch.rows is None else batch.rows.get(m)
        images = views(m, batch.cells)
        if rows is not None:
            images = images[rows]
        batch.images[m] = images.contiguous(memory_format=torch.channels_last)
    return batch
