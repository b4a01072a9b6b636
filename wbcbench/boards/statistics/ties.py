"""Rows that cannot be told from the best of their group share a rank.

Which row leads is seen from the same data that then judge the others, so any pair of rows might have been the one
that is compared: the correction is for all pairs, not only for those with the leader. Otherwise ten equal methods
would be given different ranks on every tenth board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wbcbench.boards.statistics.corrections import holm

ALPHA = 0.05


class TieGroup(NamedTuple):
    """Rows, named by index, that share a rank."""

    leader: int
    members: list[int]
    """The leader first, then from best to worst."""
    adjusted: dict[int, float]
    """Holm-adjusted p of every row that was compared with the leader, whether it joined or not."""


def tie_groups(order: Sequence[int], p_value: Callable[[int, int], float], alpha: float = ALPHA) -> list[TieGroup]:
    """Groups, best first.

    The best row that has no group yet leads the next one. Every other such row is compared with it; from the best
    to the worst they join until one is worse beyond noise, after Holm's correction for all pairs of rows. So a row
    never ranks above one with a better mean, however noisy it is itself.

    Args:
        order: rows from best to worst.
        p_value: (leader, row) -> p of no difference.
        alpha: below this adjusted p a row is worse than the leader.
    """
    left = list(order)
    family = len(left) * (len(left) - 1) // 2
    groups = []
    while left:
        leader, *others = left
        adjusted = dict(zip(others, holm([p_value(leader, row) for row in others], family), strict=True))
        worse = next((i for i, row in enumerate(others) if adjusted[row] < alpha), len(others))
        groups.append(TieGroup(leader, [leader, *others[:worse]], adjusted))
        left = others[worse:]
    return groups
