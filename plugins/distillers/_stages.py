"""Paired stage maps of a student and a teacher, brought to one shape: what distillers of maps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from torch import Tensor, nn

from wbcbench.adapters import conv1x1, pair_stages, same_size
from wbcbench.contracts import PairShapes

Which = Literal["all", "last"]


class Stages(nn.Module):
    """Yields (student map, teacher map) per paired stage, shallow to deep, of one height and width.

    Args:
        pair: shapes of student and teacher.
        adapter: (student channels, teacher channels) -> the layer that brings a student's map into the
            teacher's channels; None where the loss needs no agreement of channels.
        which: every paired stage, or the deepest alone.
    """

    def __init__(
        self,
        pair: PairShapes,
        adapter: Callable[[int, int], nn.Module] | None = conv1x1,
        which: Which = "all",
    ) -> None:
        super().__init__()
        indices = pair_stages(len(pair.student_maps), len(pair.teacher_maps))
        self.indices = indices if which == "all" else indices[-1:]
        channels = [(pair.student_maps[s][0], pair.teacher_maps[t][0]) for s, t in self.indices]
        self.adapters = nn.ModuleList(nn.Identity() if adapter is None else adapter(s, t) for s, t in channels)

    def __len__(self) -> int:
        return len(self.indices)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for adapter, (s, t) in zip(self.adapters, self.indices, strict=True):
            smaller, target = same_size(student[s], teacher[t])
            yield adapter(smaller), target
