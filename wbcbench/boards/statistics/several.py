"""Methods over several data sets. Source: Demsar, JMLR 7 (2006), unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import f as fisher
from scipy.stats import friedmanchisquare, rankdata, studentized_range


class Friedman(NamedTuple):
    """Do methods differ at all, judged by their ranks on each data set?"""

    mean_ranks: tuple[float, ...]
    """Per method; 1 is best."""
    chi2: float
    p: float
    f_p: float
    """Iman and Davenport's less conservative form."""


def friedman(scores: ArrayLike) -> Friedman:
    """Rank the methods within each data set.

    Args:
        scores: [data sets >= 2, methods >= 3], higher is better; ties share their mean rank.
    """
    x = np.asarray(scores, dtype=np.float64)
    n, k = x.shape
    if n < 2 or k < 3:
        raise ValueError(f"Expected at least 2 data sets and 3 methods, but got {n} and {k}.")
    ranks = rankdata(-x, axis=1).mean(0)
    if (x == x[:, :1]).all():
        return Friedman(tuple(ranks.tolist()), 0.0, 1.0, 1.0)
    found = friedmanchisquare(*x.T)
    statistic, p = float(found.statistic), float(found.pvalue)
    left = n * (k - 1) - statistic
    f_p = float(fisher.sf((n - 1) * statistic / left, k - 1, (k - 1) * (n - 1))) if left > 1e-12 else 0.0
    return Friedman(tuple(ranks.tolist()), statistic, p, f_p)


def critical_difference(methods: int, data_sets: int, alpha: float = 0.05) -> float:
    """Nemenyi: two methods whose mean ranks differ by less cannot be told apart."""
    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * data_sets))


def nemenyi_groups(mean_ranks: Sequence[float], difference: float) -> list[tuple[int, ...]]:
    """Largest sets of methods (indices, best first) within one critical difference: the bars of the diagram."""
    order = sorted(range(len(mean_ranks)), key=lambda i: (mean_ranks[i], i))
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(i for i in order[start:] if mean_ranks[i] - mean_ranks[first] < difference)
        if len(group) > 1 and not any(set(group) <= set(g) for g in groups):
            groups.append(group)
    return groups


def probability_of_improvement(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Chance that a run of A beats a run of B on a data set drawn at random, with a 95 % interval.

    Args:
        a: per data set, scores of A's runs [S]; higher is better.
        b: the same of B, in the same order of data sets.
        resamples: bootstrap over runs, within each data set.
        seed: of the bootstrap.

    Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice", NeurIPS 2021; per data set it is
    Mann and Whitney's U over the number of pairs, ties count one half.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    points, spread = [], np.zeros(resamples)
    for left, right in zip(a, b, strict=True):
        x, y = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
        wins = (x[:, None] > y).astype(np.float64) + 0.5 * (x[:, None] == y)
        points.append(float(wins.mean()))
        i, j = rng.integers(0, len(x), (resamples, len(x))), rng.integers(0, len(y), (resamples, len(y)))
        spread += _mean_of_pairs(wins, i, j)
    low, high = np.quantile(spread / len(points), [0.025, 0.975])
    return float(np.mean(points)), float(low), float(high)


def _mean_of_pairs(wins: NDArray[np.float64], i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(wins[i[:, :, None], j[:, None, :]].mean((1, 2)))
