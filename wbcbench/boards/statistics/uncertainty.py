"""A mean over seeds, judged on cells: its standard error, interval and p-value.

Every seed is judged on the same test cells. With S seeds and per-seed values d_s (of a metric, or of a paired
difference),

    Var(mean d) = s^2 / S + c

where s^2 is the sample variance between seeds, which does not see what the shared cells do to all seeds alike, and
c is the covariance between two seeds that the shared cells cause, from the bootstrap. This is how studies with
several readers and shared cases are analysed: Obuchowski and Rockette, Comm. Stat. Simul. Comput. 24 (1995);
degrees of freedom after Hillis, Stat. Med. 26 (2007), with Satterthwaite's term for few clusters. Seeds are
readers here, cells are cases. What the bootstrap says of each network's own noise on these cells is part of what
seeds scatter, so s^2 / S is never taken as less.

One seed alone says nothing of other seeds: its interval covers the choice of cells only.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as student

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
