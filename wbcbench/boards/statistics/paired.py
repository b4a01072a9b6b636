"""Tests of one pair: two trained networks on one test set, or two methods over resampled splits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, chi2

from wbcbench.boards.statistics.uncertainty import Uncertainty


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
