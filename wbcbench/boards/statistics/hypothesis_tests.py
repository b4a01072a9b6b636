"""Standard errors and intervals over cells and seeds, tests of pairs and of many methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma, expit, logit, polygamma
from scipy.stats import binomtest, chi2, friedmanchisquare, nct, rankdata, studentized_range
from scipy.stats import f as fisher
from scipy.stats import t as student

Floats = NDArray[np.float64]


class SeedVariance(NamedTuple):
    """Variance between seeds of every row; for a paired difference, the sum of its two rows'."""

    rows: NDArray[np.float64]
    """[K]"""
    df: float
    """Degrees of freedom of each variance."""
    other: float = math.nan
    """Of a row that was not among these: what the others say of it. NaN: they are too few."""
    other_df: float = math.nan


def seed_variance(values: ArrayLike, paired: bool = True) -> SeedVariance:
    """Moderated variances between seeds.

    Args:
        values: [rows K >= 2, seeds S >= 2] a metric on the whole test set.
        paired: leave out what a seed does to all rows alike, since a difference between rows does not have it.

    With only two rows there is nothing to estimate the moderation from: the sum of their variances is that of
    their difference, with S - 1 degrees of freedom, as in a paired t-test. A row whose seeds are all equal (it
    draws no random numbers) is not used for other rows.

    A row with a single seed has no variance of its own: its posterior is the prior (`other`, `other_df`).
    Source: Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"Expected [rows >= 2, seeds >= 2], but got {list(x.shape)}.")
    k, s = x.shape
    rest = x - x.mean(1, keepdims=True)
    used = k - 1 if paired else k
    if paired:
        rest -= x.mean(0) - x.mean()
    raw = (rest**2).sum(1) / (s - 1) * k / used
    random = raw[(x != x[:, :1]).any(1) & (raw > 0)]
    most = used * (s - 1)
    if k == 2 or len(random) < 2:
        return SeedVariance(raw, s - 1)
    prior, weight = _prior(random, s - 1)
    if math.isinf(weight):
        return SeedVariance(np.full(k, prior), most, prior, most)
    moderated = (weight * prior + (s - 1) * raw) / (weight + s - 1)
    return SeedVariance(moderated, min(weight + s - 1, most), prior, min(weight, most))


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
    run_se: float = math.nan
    """Standard error of the estimate as a prediction of one more run: a new seed and as many new cells."""
    run_df: float = math.nan
    seeds: bool = True
    """False: of one seed, so the error is over cells only and there is no p-value."""

    def interval(
        self, level: float = LEVEL, scale: Scale = "linear", limits: tuple[float, float] = (-math.inf, math.inf)
    ) -> tuple[float, float]:
        """Two-sided confidence interval.

        Args:
            level: coverage of the interval.
            scale: on which the error is assumed symmetric. `linear` for differences; `logit` for metrics within
                0 .. 1 and `log` for those above 0, whose intervals then stay within that range and have better
                coverage near its ends (delta method). If the error exceeds the value itself, a logarithm is
                meaningless: such an interval is symmetric, cut off at 0.
            limits: the possible values. An interval is cut off there, which leaves its coverage as it is.
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
        return max(v - half, limits[0]), min(v + half, limits[1])

    @property
    def p(self) -> float:
        """Two-sided, for no difference from zero. 1 if value and error are both zero; NaN without seeds."""
        if not self.seeds:
            return math.nan
        if self.se == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.se, self.df))

    @property
    def chance(self) -> float:
        """Probability that one more run has a value above zero; ties count one half. NaN if unknown.

        It is Student's t of the prediction, so it allows for the error of the estimate itself.
        """
        if self.run_se == 0:
            return 0.5 + 0.5 * float(np.sign(self.value))
        return float(student.cdf(self.value / self.run_se, self.run_df))

    def equivalent(self, margin: float) -> float:
        """P-value of a value beyond `margin` on either side: two one-sided tests. NaN without seeds.

        Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
        """
        if not self.seeds:
            return math.nan
        if self.se == 0:
            return 0.0 if abs(self.value) < margin else 1.0
        return float(student.sf((margin - abs(self.value)) / self.se, self.df))

    def detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest true value that a two-sided test finds with this power. NaN without seeds."""
        if not self.seeds or self.se == 0:
            return math.nan if not self.seeds else 0.0
        return self.se * smallest_shift(self.df, alpha, power)


def smallest_shift(df: float, alpha: float, power: float) -> float:
    """The non-centrality at which a two-sided t-test has this power: the true value in standard errors."""
    least = float(student.ppf(1 - alpha / 2, df))
    return float(brentq(lambda shift: float(nct.sf(least, df, shift)) - power, 0.0, 3 * least + 3))


class Split(NamedTuple):
    """Variances of the mean over seeds of some values, by source. Arrays of one shape, or numbers."""

    between: Floats
    """From seeds, including what each network does with each cell."""
    shared: Floats
    """From the choice of cells, which all seeds share."""


def split_variance(of_mean: ArrayLike, own: ArrayLike, seeds: int, variance: ArrayLike) -> Split:
    """Split the variance of a mean over seeds.

    Args:
        of_mean: bootstrap variance, over cells, of the mean over seeds.
        own: bootstrap variance over cells of one seed's value, mean over seeds.
        seeds: their number S.
        variance: s^2 between seeds.

    With one seed the two sources cannot be told apart: all of `own` counts as shared, so that the noise of one
    network on one cell is counted twice. The error is then too large rather than too small.
    """
    of_mean, own, variance = (np.asarray(x, dtype=np.float64) for x in (of_mean, own, variance))
    if seeds == 1:
        return Split(variance, of_mean)
    shared = np.maximum((seeds * of_mean - own) / (seeds - 1), 0.0)
    return Split(np.maximum(variance / seeds, of_mean - shared), shared)


def combined(
    value: ArrayLike, split: Split, seeds: int, seeds_df: float, cells_df: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The first five fields of `Uncertainty`, as arrays; degrees of freedom by Welch and Satterthwaite."""

    def of(between: Any, shared: Any) -> tuple[Any, Any]:
        total = between + shared
        spread = between**2 / seeds_df + shared**2 / cells_df
        return np.sqrt(total), np.divide(total**2, spread, out=np.full_like(total, cells_df), where=spread > 0)

    se, df = of(split.between, split.shared)
    run_se, run_df = of(split.between * (seeds + 1), 2 * split.shared)
    return np.asarray(value), se, df, run_se, run_df


def uncertainty(
    per_seed: NDArray[np.float64],
    resampled: NDArray[np.float64],
    clusters: float,
    seed_variance: tuple[float, float] | None = None,
) -> Uncertainty:
    """Combine the uncertainty over cells and over seeds.

    Args:
        per_seed: [S] on all test cells.
        resampled: [S, R], the same in R bootstrap resamples.
        clusters: number of resampled clusters G, see `effective_clusters`; bootstrap variances are corrected by
            G / (G - 1).
        seed_variance: s^2 and its degrees of freedom if it was estimated from more than these S values, see
            `seed_variance`; by default their own, with S - 1. Without it one seed has an error over cells only.

    Raises:
        ValueError: fewer than two clusters, so that the variance is unknown.
    """
    if clusters < 2:
        raise ValueError("Expected at least two clusters of test cells to resample, but got one.")
    seeds = len(per_seed)
    value = float(np.mean(per_seed))
    correction = clusters / (clusters - 1)
    of_mean = float(resampled.mean(0).var(ddof=1)) * correction
    if seeds == 1 and seed_variance is None:
        return Uncertainty(value, math.sqrt(of_mean), clusters - 1, seeds=False)
    own = float(resampled.var(1, ddof=1).mean()) * correction
    variance, df = seed_variance or (float(per_seed.var(ddof=1)), seeds - 1)
    found = combined(value, split_variance(of_mean, own, seeds, variance), seeds, df, clusters - 1)
    value, se, df, run_se, run_df = map(float, found)
    return Uncertainty(value, se, df, run_se, run_df)


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

    The overlap shifts all splits alike, so it does not part a further split from these: as a prediction of one,
    with one seed, the variance is that of a single difference plus 1 / J of that between splits.

    Args:
        differences: [J] or [J, seeds S], one per split.
        test_to_train: n_test / n_train, > 0.
    """
    every = np.asarray(differences, dtype=np.float64)
    if every.ndim not in (1, 2) or len(every) < 2:
        raise ValueError(f"Expected differences of at least two splits, but got {list(every.shape)}.")
    every = every.reshape(len(every), -1)
    d, seeds = every.mean(1), every.shape[1]
    variance, splits = float(d.var(ddof=1)), len(d)
    # a mean over S seeds has 1 / S of their variance
    seed = float(every.var(1, ddof=1).mean()) * (1 - 1 / seeds) if seeds > 1 else 0.0
    se = math.sqrt(variance * (1 / splits + test_to_train))
    return Uncertainty(float(d.mean()), se, splits - 1, math.sqrt(variance * (1 + 1 / splits) + seed), splits - 1)


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
