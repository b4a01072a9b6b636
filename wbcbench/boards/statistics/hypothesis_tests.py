"""Tests of pairs and of many methods, corrections for many comparisons, and ranks with ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, chi2, friedmanchisquare, rankdata, studentized_range
from scipy.stats import f as fisher

from wbcbench.boards.statistics.uncertainty import Uncertainty


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Adjusted p-values in the order given: Holm's step-down, which bounds the chance of any false alarm.

    Args:
        p_values: of the comparisons made.
        family: how many might have been made; the others count as if they had shown nothing. At least as many as
            p-values, which is the default.

    Source: Holm, Scand. J. Stat. 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (max(family or 0, len(p)) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(x) for x in adjusted]


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


class McNemar(NamedTuple):
    """Do two networks get equally many cells right? Only cells on which one alone is right count."""

    only_a: int
    only_b: int
    exact_p: float
    """Binomial, two-sided."""
    chi2: float
    """With continuity correction, one degree of freedom."""
    chi2_p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Compare which of N cells each network got right (bool, [N] each).

    Source: McNemar, Psychometrika 12 (1947); continuity correction after Edwards (1948).
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"Expected [N] and [N], but got {list(a.shape)} and {list(b.shape)}.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if not only_a + only_b:
        return McNemar(0, 0, 1.0, 0.0, 1.0)
    exact = float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / (only_a + only_b)
    return McNemar(only_a, only_b, exact, statistic, float(chi2.sf(statistic, 1)))


def corrected_resampled_t(differences: ArrayLike, test_to_train: float) -> Uncertainty:
    """Mean paired difference over J resampled splits of one data set; its p-value is `.p`.

    Training sets of resampled splits overlap, so the usual variance is too small: it is multiplied by
    1 / J + n_test / n_train instead of 1 / J. Source: Nadeau and Bengio, Machine Learning 52 (2003).

    Args:
        differences: [J], one per split.
        test_to_train: n_test / n_train, > 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"Expected differences of at least two splits, but got {list(d.shape)}.")
    se = math.sqrt(float(d.var(ddof=1)) * (1 / len(d) + test_to_train))
    return Uncertainty(float(d.mean()), se, len(d) - 1)


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
