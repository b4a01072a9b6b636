"""Every pair of rows at once: differences, tests of all of them, and which rows may be the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from wbcbench.boards.statistics.hypothesis_tests import ALPHA, Uncertainty, combined, holm, split_variance

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contrasts:
    """Row i minus row j, for all of K rows with the same seeds; each field is [K, K]."""

    value: Floats
    se: Floats
    df: Floats
    run_se: Floats
    run_df: Floats
    seeds: bool
    """See `Uncertainty`, also for the other fields."""

    @classmethod
    def of(
        cls, per_seed: Floats, resampled: NDArray[Any], clusters: float, seed_variance: tuple[Floats, float] | None
    ) -> Contrasts:
        """As `uncertainty` of every difference, from covariances between rows.

        Args:
            per_seed: [K, S] on all test cells.
            resampled: [K, S, R], the same in R bootstrap resamples.
            clusters: as for `uncertainty`.
            seed_variance: s^2 of every row [K] and their degrees of freedom; None: unknown, of one seed.
        """
        seeds = per_seed.shape[1]
        correction = clusters / (clusters - 1)
        of_mean = _variances(resampled.mean(1)) * correction
        means = per_seed.mean(1)
        value = means[:, None] - means
        if seed_variance is None:
            unknown = np.full_like(value, np.nan)
            return cls(value, np.sqrt(of_mean), np.full_like(value, clusters - 1), unknown, unknown, False)
        own = of_mean
        if seeds > 1:
            own = sum((_variances(resampled[:, s]) for s in range(seeds)), np.zeros_like(value))
            own *= correction / seeds
        rows, df = seed_variance
        split = split_variance(of_mean, own, seeds, rows[:, None] + rows)
        return cls(*combined(value, split, seeds, df, clusters - 1), True)

    def pair(self, i: int, j: int) -> Uncertainty:
        """Row i minus row j."""
        value, se, df, run_se, run_df = (
            float(x[i, j]) for x in (self.value, self.se, self.df, self.run_se, self.run_df)
        )
        return Uncertainty(value, se, df, run_se, run_df, self.seeds)

    def p(self) -> Floats:
        """[K, K] two-sided p-values; 1 on the diagonal."""
        return np.asarray(np.minimum(2 * np.minimum(self.worse(), self.worse().T), 1.0))

    def worse(self) -> Floats:
        """[K, K] one-sided p-values: small if row i is worse than row j (higher is better)."""
        if not self.seeds:
            return np.full_like(self.value, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.value == 0, 0.0, self.value / self.se)
        return np.asarray(student.cdf(t, self.df))

    def p_holm(self) -> Floats:
        """[K, K] p-values after Holm's correction for all pairs; symmetric."""
        upper = np.triu_indices(len(self.value), 1)
        p = self.p()
        adjusted = np.ones_like(p)
        adjusted[upper] = holm(list(p[upper]))
        adjusted.T[upper] = adjusted[upper]
        return adjusted

    def best(self) -> Floats:
        """[K] p-values of being the best; rows at or above alpha are a confidence set of the best.

        The best row is in it with a probability of at least 1 - alpha, and so is each of several equally good
        ones. A row leaves if another one is better beyond noise, corrected for the K - 1 tests of that row
        (Bonferroni, valid whatever their correlations and standard errors). One-sided tests would do; with
        two-sided ones the better of two rows is alone in the set exactly if their difference is beyond noise.

        Source: multiple comparisons with the best, Hsu, Ann. Stat. 9 (1981); Edwards and Hsu, JASA 78 (1983).
        """
        k = len(self.value)
        if k < 2:
            return np.ones(k)
        others = np.where(np.eye(k, dtype=bool), np.inf, self.worse())
        return np.asarray(np.minimum(2 * others.min(1) * (k - 1), 1.0))

    def detectable(self, power: float = 0.8) -> float:
        """The smallest lead with which the best row of two would leave the other out of `best`; median over pairs.

        NaN if unknown, or with fewer than two rows.
        """
        k = len(self.value)
        if k < 2 or not self.seeds:
            return float("nan")
        upper = np.triu_indices(k, 1)
        se, df = float(np.median(self.se[upper])), float(np.median(self.df[upper]))
        return Uncertainty(0.0, se, df).detectable(ALPHA / (k - 1), power)


def _variances(x: NDArray[Any]) -> Floats:
    """Variances of all differences of the rows of [K, R], from their covariances."""
    rest = np.asarray(x, dtype=np.float64)
    rest = rest - rest.mean(1, keepdims=True)
    products = rest @ rest.T / (rest.shape[1] - 1)
    own = np.diag(products)
    sums = own[:, None] + own
    # rows of equal predictions differ by rounding only
    return np.where((found := sums - 2 * products) > 1e-12 * sums, found, 0.0)
