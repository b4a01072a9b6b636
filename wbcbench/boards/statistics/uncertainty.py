"""A mean over seeds, judged on cells: standard error, interval, p-value, and how much seeds scatter."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma, expit, logit, polygamma
from scipy.stats import t as student


class SeedVariance(NamedTuple):
    """Between seeds, of every row; that of a paired difference is the sum of its two rows'."""

    rows: NDArray[np.float64]
    """[K]"""
    df: float
    """Degrees of freedom of each."""


def seed_variance(values: ArrayLike) -> SeedVariance:
    """Moderated variances between seeds.

    Args:
        values: [rows K >= 2, seeds S >= 2] a metric on the whole test set.

    Two rows alone have nothing to learn from: the sum of their variances is that of their difference, with S - 1
    degrees of freedom, as in a paired t-test. A row whose seeds are all equal (it draws no random numbers) says
    nothing of others.
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
    """What variances scatter around, and how many degrees of freedom that is worth; infinite: all are equal."""
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
    """An estimate with what is needed to judge it."""

    value: float
    se: float
    df: float
    """Degrees of freedom, > 0."""

    def interval(self, level: float = LEVEL, scale: Scale = "linear") -> tuple[float, float]:
        """Two-sided confidence interval.

        Args:
            level: share of intervals that cover.
            scale: on which the error is taken as symmetric. `linear` for differences; `logit` for metrics within
                0 .. 1 and `log` for those above 0, whose intervals then stay within that range and cover better
                near its ends (delta method). Where the error exceeds the value itself, a logarithm says nothing
                any more: such an interval is symmetric, from 0 on.
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
        """Two-sided, of no difference from zero. 1 where value and error are both zero."""
        if self.se == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.se, self.df))


def uncertainty(
    per_seed: NDArray[np.float64],
    resampled: NDArray[np.float64],
    clusters: int,
    seed_variance: tuple[float, float] | None = None,
) -> Uncertainty:
    """Put cells and seeds together.

    Args:
        per_seed: [S] on all test cells.
        resampled: [S, R], the same in R bootstrap resamples.
        clusters: how many clusters were resampled; a bootstrap of few is corrected by G / (G - 1).
        seed_variance: s^2 and its degrees of freedom where more than these S values are known of it, see
            `moderation`; by default their own, with S - 1.

    Raises:
        ValueError: fewer than two clusters, of which no variance can be known.
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
