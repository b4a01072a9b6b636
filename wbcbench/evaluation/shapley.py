"""How much each modality brings: exact Shapley values over all subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from math import factorial

Subset = tuple[str, ...]


def subsets(modalities: Sequence[str]) -> list[Subset]:
    """All non-empty subsets, smaller ones first, each in the order of `modalities`; 2^M - 1 of them."""
    sizes = range(1, len(modalities) + 1)
    return list(chain.from_iterable(combinations(modalities, n) for n in sizes))


def shapley(values: Mapping[Subset, float], empty: float) -> dict[str, float]:
    """phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! [v(S + m) - v(S)].

    Args:
        values: v of every non-empty subset.
        empty: v of no modality at all: what guessing reaches.

    Returns:
        One value per modality; they add up to v(all) - empty.

    Source: Shapley 1953; exact, 2^M terms.
    """
    modalities = max(values, key=len)
    count = len(modalities)
    worth = {frozenset(s): v for s, v in values.items()} | {frozenset(): empty}
    found = {}
    for m in modalities:
        others = [x for x in modalities if x != m]
        total = 0.0
        for s in [(), *subsets(others)]:
            weight = factorial(len(s)) * factorial(count - len(s) - 1) / factorial(count)
            total += weight * (worth[frozenset((*s, m))] - worth[frozenset(s)])
        found[m] = total
    return found
