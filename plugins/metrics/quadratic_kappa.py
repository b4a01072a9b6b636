"""Cohen's kappa with quadratic weights: agreement beyond chance, where a confusion costs its distance squared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import FromCounts, Metric, Ordered


class QuadraticKappa(Ordered, FromCounts, Metric):
    """Cohen's kappa with quadratic weights: 1 if all are right, 0 as by chance with the same shares of classes.

    kappa = 1 - sum_ij d_ij n_ij / sum_ij d_ij e_ij, with counts n, e_ij = n_i. n_.j / n and d_ij = (r_i - r_j)^2
    for places r in the order. Undefined if all cells are of one class and predicted as that.
    """

    name = "quadratic_kappa"
    aliases = ("qwk",)
    source = "Cohen, Psychological Bulletin 70:213 (1968)"
    range = (-1.0, 1.0)

    def of_counts(self, counts: NDArray[Any]) -> NDArray[Any]:
        far = np.subtract.outer(self.ranks, self.ranks).astype(np.float64) ** 2
        true, predicted = counts.sum(-1), counts.sum(-2)
        expected = true[..., :, None] * predicted[..., None, :] / counts.sum((-2, -1))[..., None, None]
        observed, chance = (far * counts).sum((-2, -1)), (far * expected).sum((-2, -1))
        share = np.divide(observed, chance, out=np.full_like(chance, np.nan), where=chance > 0)
        return np.asarray(1 - share)
