"""my_method: state in one line what it measures.

Start from here. The contract is `wbcbench.contracts.Metric`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import MeanOverCells, Metric, Parameters, param


class MyMethod(MeanOverCells, Metric):
    """Share of cells whose true class is among the most probable ones; 1: it always is."""

    name = "my_method"
    source = ""  # paper and equation, shown by `wbcbench show`
    predictions = "probabilities"  # "classes": only the most probable class [N] of each cell
    higher_is_better = True
    range = (0.0, 1.0)  # None: no limit

    class Params(Parameters):
        # Set by `--metric my_method:among=3`.
        among: int = param(2, "How many classes may be named.", ge=1)

    params: Params

    # The mean over cells is the metric. If it is no mean, leave out `MeanOverCells` and write
    # `score(self, predictions, labels) -> float`; of confusion matrices alone, see `FromCounts`.
    def of_cells(self, predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        own = np.take_along_axis(predictions, labels[:, None], 1)
        above = (predictions > own).sum(1)  # classes that are more probable than the true one
        return np.asarray(above < self.params.among, dtype=np.float64)
