"""Batch repetition: every cell of a batch is shown several times, in rows that differ."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Draw, Parameters, Policy, PolicyTraits, param


def salted(draw: Draw, salt: str) -> Draw:
    """The same step's random numbers under another name, so that they are independent of the first."""

    def key(name: str, n: int) -> Tensor:
        return draw.uniform(n, f"{salt}:{name}")

    return Draw(key)


class BatchRepetition(Policy):
    """R = repeats * B rows per step: the batch as assembled, then assembled again with fresh random numbers.

    Repeats differ where the fusion draws its rows (independent, mixmo) or another policy draws per row
    (modality_dropout, mixing); in any other fusion the rows are equal and nothing is gained. Memory and time of
    a step grow by the factor. What the fusion stores about its rows (the mixing plan of mixmo) is repeated with
    them.
    """

    name = "batch_repetition"
    source = "Hoffer et al., CVPR 2020, arXiv 1901.09335; Havasi et al., ICLR 2021, arXiv 2010.06610, section 4.3"
    traits = PolicyTraits(acts_on="rows")

    class Params(Parameters):
        repeats: int = param(4, "Times each cell is shown; 1: nothing changes.", ge=1, le=16, search=[1, 2, 4, 8])

    params: Params

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        own = torch.arange(len(batch), device=batch.cells.device)
        name, rows, notes = self.fusion.name, [batch.rows], [batch.extras.get(self.fusion.name, {})]
        for k in range(1, self.params.repeats):
            # `extras` stays the same mapping: the fusion may have kept it for its forward pass
            again = self.fusion.assemble(replace(batch, rows=None, images={}), salted(draw, f"repeat{k}"))
            rows.append(again.rows)
            notes.append(again.extras.get(name, {}))
        if len(rows) > 1:
            modalities = self.fusion.task.modalities
            batch.rows = {m: torch.cat([own if r is None else r[m] for r in rows]) for m in modalities}
        if notes[0]:
            batch.extras[name] = {key: torch.cat([n[key] for n in notes]) for key in notes[0]}
        return batch
