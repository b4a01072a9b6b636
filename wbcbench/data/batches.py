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


class EpochDraws:
    """The random numbers that a fusion or a policy may ask for in the steps of one epoch.

    They are drawn for all steps at the first step that asks: a hash is some forty operations however long its
    tensor, and a small network would notice those of every purpose in every step.
    """

    def __init__(self, seed: int, epoch: int, steps: int, device: torch.device) -> None:
        self._counters = (seed, "assemble", epoch, torch.arange(steps, device=device)[:, None])
        self._known: dict[str, Tensor] = {}

    def step(self, step: int) -> Draw:
        """The random numbers of one step, a function of (seed, epoch, step, purpose)."""

        def key(salt: str, n: int) -> Tensor:
            known = self._known.get(salt)
            if known is None or known.shape[1] < n:
                places = torch.arange(n, device=self._counters[3].device)
                known = self._known[salt] = uniform(*self._counters, salt, places)
            return known[step, :n].clone()

        return Draw(key)


def draw_batch(cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...]) -> Batch:
    """A batch of the given cells, before the fusion has assembled it (no images yet)."""
    present = cells.present(ids, modalities)
    return Batch(cells=ids, labels=cells.labels[ids], present=present, modalities=modalities)


def fill_images(batch: Batch, views: EpochViews, modalities: tuple[str, ...]) -> Batch:
    """Make the images that each row shows: [R, C, S, S] per modality, channels last in memory."""
    for m in modalities:
        rows = None if batch.rows is None else batch.rows.get(m)
        if rows is None:
            images = views(m, batch.cells)
        elif views.keeps or len(rows) > len(batch.cells):  # made once, however many rows show it
            images = views(m, batch.cells)[rows]
        else:
            images = views(m, batch.cells[rows])
        batch.images[m] = images.contiguous(memory_format=torch.channels_last)
    return batch
