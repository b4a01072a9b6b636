"""Sensitivity of each class at a fixed specificity: what a detector finds at a tolerated rate of false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import Metric, Parameters, param


class SensitivityAtSpecificity(Metric):
    """Sensitivity of each class at a fixed specificity, mean over classes.

    Per class against the rest: the largest share of its cells that is found by a threshold on its probability
    above which at most 1 - specificity of the other cells are. Undefined for a class without cells, or with all.
    """

    name = "sensitivity_at_specificity"
    source = "Zhou, Obuchowski and McClish, Statistical Methods in Diagnostic Medicine (2011), 2.6"
    per_class = True

    class Params(Parameters):
        specificity: float = param(
            0.95, "Least share of other cells that are not above the threshold.", gt=0, le=1
        )

    params: Params

    def score(self, predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        return np.array([self._of_class(predictions[:, k], labels == k) for k in range(len(self.classes))])

    def _of_class(self, scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
        found, others = scores[positive], scores[~positive]
        if not len(found) or not len(others):
            return float("nan")
        allowed = int((1 - self.params.specificity) * len(others) + 1e-9)  # false alarms
        if allowed >= len(others):
            return 1.0
        # cells above the (allowed + 1)-th largest of the others, which must not be above the threshold itself
        at = len(others) - 1 - allowed
        return float((found > np.partition(others, at)[at]).mean())
