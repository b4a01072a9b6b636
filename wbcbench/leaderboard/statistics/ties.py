"""Rows that cannot be told from the best of their group share a rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wbcbench.leaderboard.statistics.corrections import holm

ALPHA = 0.05


def tie_groups(
    order: Sequence[int], p_value: Callable[[int, int], float], alpha: float = ALPHA
) -> list[tuple[int, list[int]]]:
    """Groups in order, each as (leader, members with the leader first).

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
        adjusted = holm([p_value(leader, row) for row in others])
        near = [row for row, p in zip(others, adjusted, strict=True) if p >= alpha]
        groups.append((leader, [leader, *near]))
        left = [row for row in others if row not in set(near)]
    return groups
