"""How much seeds scatter, learnt from all rows of a board together.

Three seeds say little of a variance: by chance it comes out near zero, and a small difference then looks sure.
With many rows on a board that happens somewhere almost every time. So each row's variance is drawn towards what
the others show, as much as the rows agree: empirical Bayes, Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004), whose
"moderated t" this is. What all rows have of a seed in common is taken out first, as differences are paired by seed
(the method-by-reader mean square of Obuchowski and Rockette 1995, by row).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma, polygamma


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


__all__ = ["SeedVariance", "seed_variance"]
