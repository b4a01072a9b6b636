"""Standard errors and intervals over cells and seeds, tests of pairs and of many methods, ranks with ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma, expit, logit, polygamma
from scipy.stats import binomtest, chi2, friedmanchisquare, rankdata, studentized_range
from scipy.stats import f as fisher
from scipy.stats import t as student


class SeedVariance(NamedTuple):
    """Variance between seeds of every row; for a paired difference, the sum of its two rows'."""

    rows: NDArray[np.float64]
    """[K]"""
    df: float
    """Degrees of freedom of each variance."""


def seed_variance(values: ArrayLike) -> SeedVariance:
    """Moderated variances between seeds.

    Args:
        values: [rows K >= 2, seeds S >= 2] a metric on the whole test set.

    With only two rows there is nothing to estimate the moderation from: the sum of their variances is that of
    their difference, with S - 1 degrees of freedom, as in a paired t-test. A row whose seeds are all equal (it
    draws no random numbers) is not used for other rows.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"Expected [rows >= 2, seeds >= 2], but got {list(x.shape)}.")
    k, s = x.shape
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    raw = (rest**2).sum(1) / (s - 1) * k / (k - 1)
    random = raw[(x != x[:, :1]).any(1) & (raw > 0)]
    most = (k - 1) * (s - 1)
    if k == 2 or len(random) < 2:
        return SeedVariance(raw, s - 1)
    prior, weight = _prior(random, s - 1)
    if math.isinf(weight):
        return SeedVariance(np.full(k, prior), most)
    return SeedVariance((weight * prior + (s - 1) * raw) / (weight + s - 1), min(weight + s - 1, most))


def _prior(raw: NDArray[np.float64], df: int) -> tuple[float, float]:
    """The prior variance and its degrees of freedom; infinite: all variances are equal."""
    logs = np.log(raw) - digamma(df / 2) + math.log(df / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, df / 2))
    if excess <= 0:
        return float(raw.mean()), math.inf
    # trigamma falls from infinity to 0, so there is one solution
    half = brentq(lambda log: float(polygamma(1, math.exp(log))) - excess, -20.0, 20.0) if excess < 1e15 else -20.0
    weight = 2 * math.exp(half)
    return math.exp(float(logs.mean() + digamma(weight / 2)) - math.log(weight / 2)), weight


LEVEL = 0.95
Scale = Literal["linear", "logit", "log"]


class Uncertainty(NamedTuple):
    """An estimate with its standard error and degrees of freedom."""

    value: float
    se: float
    df: float
    """Degrees of freedom, > 0."""

    def interval(self, level: float = LEVEL, scale: Scale = "linear") -> tuple[float, float]:
        """Two-sided confidence interval.

        Args:
            level: coverage of the interval.
            scale: on which the error is assumed symmetric. `linear` for differences; `logit` for metrics within
                0 .. 1 and `log` for those above 0, whose intervals then stay within that range and have better
                coverage near its ends (delta method). If the error exceeds the value itself, a logarithm is
                meaningless: such an interval is symmetric, cut off at 0.
        """
        half = float(student.ppf(0.5 + level / 2, self.df)) * self.se if self.se > 0 else 0.0
        v = self.value
        if half == 0:
            return v, v
        if scale == "logit" and 0 < v < 1:
            half /= v * (1 - v)
            return float(expit(logit(v) - half)), float(expit(logit(v) + half))
        if scale == "log" and 0 < v < half:
            return 0.0, v + half
        if scale == "log" and v > 0:
            return v * math.exp(-half / v), v * math.exp(half / v)
        return v - half, v + half

    @property
    def p(self) -> float:
        """Two-sided, for no difference from zero. 1 if value and error are both zero."""
        if self.se == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.se, self.df))


def uncertainty(
    per_seed: NDArray[np.float64],
    resampled: NDArray[np.float64],
    clusters: int,
    seed_variance: tuple[float, float] | None = None,
) -> Uncertainty:
    """Combine the uncertainty over cells and over seeds.

    Args:
        per_seed: [S] on all test cells.
        resampled: [S, R], the same in R bootstrap resamples.
        clusters: number of resampled clusters G; bootstrap variances are corrected by G / (G - 1).
        seed_variance: s^2 and its degrees of freedom if it was estimated from more than these S values, see
            `seed_variance`; by default their own, with S - 1.

    Raises:
        ValueError: fewer than two clusters, so that the variance is unknown.
    """
    if clusters < 2:
        raise ValueError("Expected at least two clusters of test cells to resample, but got one.")
    seeds = len(per_seed)
    value = float(np.mean(per_seed))
    correction = clusters / (clusters - 1)
    of_mean = float(resampled.mean(0).var(ddof=1)) * correction
    if seeds == 1:
        return Uncertainty(value, math.sqrt(of_mean), clusters - 1)
    own = float(resampled.var(1, ddof=1).mean()) * correction
    shared = max((seeds * of_mean - own) / (seeds - 1), 0.0)
    variance, df = seed_variance or (float(per_seed.var(ddof=1)), seeds - 1)
    between = max(variance / seeds, of_mean - shared)
    total = between + shared
    spread = between**2 / df + shared**2 / (clusters - 1)
    return Uncertainty(value, math.sqrt(total), total**2 / spread if spread > 0 else clusters - 1)


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Adjusted p-values in the given order: Holm's step-down, which controls the family-wise error rate.

    Args:
        p_values: of the comparisons made.
        family: how many could have been made; the others count as not significant. At least the number of
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
    """Rows, by index, that share a rank."""

    leader: int
    members: list[int]
    """The leader first, then from best to worst."""
    adjusted: dict[int, float]
    """Holm-adjusted p of every row that was compared with the leader, also of one that did not join."""


def tie_groups(order: Sequence[int], p_value: Callable[[int, int], float], alpha: float = ALPHA) -> list[TieGroup]:
    """Groups, best first.

    The best row without a group leads the next one. Every other row without a group is compared with it; from best
    to worst they join until one is worse beyond noise, after Holm's correction for all pairs of rows. So a row
    never ranks above one with a better mean, however noisy it is.

    Args:
        order: rows from best to worst.
        p_value: (leader, row) -> p of no difference.
        alpha: with an adjusted p below this, a row is worse than the leader.
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
    """Whether two networks get equally many cells right; only cells that exactly one gets right count."""

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
    """Whether methods differ at all, by their ranks on each data set."""

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
    """Nemenyi: two methods whose mean ranks differ by less cannot be distinguished."""
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
    """Probability that a run of A beats a run of B on a randomly drawn data set, with a 95 % interval.

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
