"""Batch repetition: every cell of a batch is shown several times, in rows that differ."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Draw, Parameters, Policy, param


def salted(draw: Draw, salt: str) -> Draw:
    """The same step's random numbers under another name, so that they are independent of the first."""

    def key(name: str, n: int) -> Tensor:
        return draw.uniform(n, f"{salt}:{name}")

    return Draw(key)


class BatchRepetition(Policy):
    """R = repeats * B rows per step: the batch as assembled, then assembled again with fresh random numbers.

    Repeats differ where the fusion draws its rows (independent, mixmo) or a later policy draws per row
    (modality_dropout, mixing); in any other fusion the rows are equal and nothing is gained. Memory and time of
    a step grow by the factor. Must come before other policies.
    """

    name = "batch_repetition"
    source = "Hoffer et al., CVPR 2020, arXiv 1901.09335; Havasi et al., ICLR 2021, arXiv 2010.06610, section 4.3"

    class Params(Parameters):
        repeats: int = param(4, "Times each cell is shown; 1: nothing changes.", ge=1, le=16, search=[1, 2, 4, 8])

    params: Params

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        own = torch.arange(len(batch), device=batch.cells.device)
        modalities = self.fusion.task.modalities
        parts = [batch.rows]
        for k in range(1, self.params.repeats):
            again = replace(batch, rows=None, images={})
            parts.append(self.fusion.assemble(again, salted(draw, f"repeat{k}")).rows)
        if len(parts) > 1:
            batch.rows = {m: torch.cat([own if p is None else p[m] for p in parts]) for m in modalities}
        return batch
