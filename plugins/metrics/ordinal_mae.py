"""Mean absolute error in places of the order: how many stages a prediction is away from the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import FromCounts, Metric, Ordered


class OrdinalMAE(Ordered, FromCounts, Metric):
    """Mean distance of predictions from the truth, in places of the order.

    mean |r(predicted) - r(true)| for places r; 1: one stage off on average.
    """

    name = "ordinal_mae"
    source = "Gaudette and Japkowicz, Canadian AI 2009"
    higher_is_better = False
    range = (0.0, None)

    def of_counts(self, counts: NDArray[Any]) -> NDArray[Any]:
        away = np.abs(np.subtract.outer(self.ranks, self.ranks))
        return np.asarray((away * counts).sum((-2, -1)) / counts.sum((-2, -1)))
