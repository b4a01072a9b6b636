"""Lessons for cells that lack a modality: a row is taught where the student, and somebody who teaches it, saw it.

Losses per row are masked. Losses of a whole batch (relations between rows, memory banks) must not see the other
rows at all, so rows that were shown take their places; nothing is read back from the device for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wbcbench.contracts import Output, masked_mean


def taught_rows(student: Output, teachers: Sequence[Output]) -> Tensor | None:
    """[B] bool: rows of which the student and at least one teacher were shown something; None: all."""
    masks = [t.shown for t in teachers if t.shown is not None]
    some = torch.stack(masks).any(0) if masks and len(masks) == len(teachers) else None
    if student.shown is None or some is None:
        return some if student.shown is None else student.shown
    return student.shown & some


def only_taught(out: Output, taught: Tensor | None) -> Output:
    """The output with rows that are taught, in turn, in the places of those that are not; as it is without any."""
    if taught is None:
        return out
    place = torch.arange(len(taught), device=taught.device)
    first = torch.argsort(taught.logical_not().to(torch.int8), stable=True)  # the taught ones, then the others
    count = taught.sum()
    return out.select(torch.where(taught | (count == 0), place, first[place % count.clamp(min=1)]))


def counted(terms: dict[str, Tensor], taught: Tensor | None) -> dict[str, Tensor]:
    """Terms [B], or scalars, of which only taught rows count: the mean is over them; 0 where there are none."""
    if taught is None:
        return terms
    some = taught.any()
    return {n: masked_mean(v, taught) if v.ndim else torch.where(some, v, 0.0) for n, v in terms.items()}


__all__ = ["counted", "only_taught", "taught_rows"]
