"""Rows that cannot be told from the best of their group share a rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wbcbench.leaderboard.statistics.corrections import holm

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

    The best row that has no group yet leads the next one. Every other such row is compared with it; after Holm's
    correction over these comparisons, those that are not distinguishable join.

    Args:
        order: rows from best to worst.
        p_value: (leader, row) -> p of no difference.
        alpha: below this adjusted p a row is worse than the leader.
    """
    left = list(order)
    groups = []
    while left:
        leader, *others = left
        adjusted = dict(zip(others, holm([p_value(leader, row) for row in others]), strict=True))
        near = [row for row in others if adjusted[row] >= alpha]
        groups.append(TieGroup(leader, [leader, *near], adjusted))
        left = [row for row in others if adjusted[row] < alpha]
    return groups
