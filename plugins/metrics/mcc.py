"""Matthews' correlation of true and predicted classes, for any number of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import FromCounts, Metric


class MCC(FromCounts, Metric):
    """Matthews' correlation of true and predicted classes: 1 if all are right, 0 without correlation.

    Ignoring a rare class does not raise it, unlike accuracy.

    (c n - sum_k t_k p_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k t_k^2)): n cells, c right, t_k of class k, p_k
    predicted as k. 0 if all cells are of one class, or predicted as one.
    """

    name = "mcc"
    source = "Gorodkin, Computational Biology and Chemistry 28:367 (2004)"
    range = (-1.0, 1.0)

    def of_counts(self, counts: NDArray[Any]) -> NDArray[Any]:
        n, true, predicted = counts.sum((-2, -1)), counts.sum(-1), counts.sum(-2)
        together = np.trace(counts, axis1=-2, axis2=-1) * n - (true * predicted).sum(-1)
        alone = np.sqrt((n**2 - (predicted**2).sum(-1)) * (n**2 - (true**2).sum(-1)))
        return np.asarray(np.divide(together, alone, out=np.zeros_like(alone), where=alone > 0))
