"""What a metric promises: a number, or one per class, from stored predictions.

Metrics use numpy, never torch: they are computed from records, which need no network. `Metric` is the contract;
what only some metrics need is an optional base class: `FromCounts`, `MeanOverCells`, `Ordered`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.params import Parameters, param
from wbcbench.errors import IncompatibleError

Array = NDArray[Any]


class Metric(ABC):
    """A pure function of N cells' predictions and labels: no files (but parameters' own), no state, no randomness.

    Subclass, set `name`, declare what it reads and its range, implement `score`. Intervals, ranks, folds and means
    over seeds follow.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    predictions: ClassVar[Literal["probabilities", "classes"]] = "probabilities"
    """What `score` is given: probabilities [N, K] float64, rows sum to 1; or the most probable classes [N]."""
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    """Least and greatest value; None: there is no limit."""
    per_class: ClassVar[bool] = False
    """Whether `score` returns a value per class [K]. Boards rank by their mean over the classes that have one."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, classes: tuple[str, ...], params: Parameters | None = None) -> None:
        """Raises `IncompatibleError` for classes that it has no value for, `DataError` for an unusable file."""
        self.classes = classes
        self.params = params if params is not None else self.Params()

    @abstractmethod
    def score(self, predictions: Array, labels: Array) -> float | Array:
        """The value, or [K] if `per_class`; NaN where it is undefined.

        Args:
            predictions: see `predictions`; of N >= 1 cells.
            labels: [N] int64, 0 .. K - 1. Some classes may have no cells.
        """


class FromCounts:
    """Base class of metrics of the confusion matrix: `class Kappa(FromCounts, Metric)`. Resamples take no loop."""

    predictions: ClassVar[Literal["probabilities", "classes"]] = "classes"
    classes: tuple[str, ...]

    @abstractmethod
    def of_counts(self, counts: Array) -> Array:
        """Values [...], or [..., K] if `per_class`, of confusion matrices [..., K, K] float64; NaN: undefined.

        Row: the true class; column: the predicted one.
        """

    def score(self, predictions: Array, labels: Array) -> float | Array:
        """See `Metric.score`."""
        found = self.of_counts(counted(predictions, labels, len(self.classes)))
        return found if found.ndim else float(found)


class MeanOverCells:
    """Base class of metrics that are a mean over cells: `class Cost(MeanOverCells, Metric)`. Resamples take no
    loop."""

    @abstractmethod
    def of_cells(self, predictions: Array, labels: Array) -> Array:
        """The value of each cell [N]; arguments as of `Metric.score`."""

    def score(self, predictions: Array, labels: Array) -> float | Array:
        """See `Metric.score`."""
        return float(np.mean(self.of_cells(predictions, labels)))


class OrderedParams(Parameters):
    """Parameters of a metric that uses the order of classes."""

    order: list[str | int] = param([], "All classes from first to last; empty: as the data set orders them.")


class Ordered:
    """Base class of metrics that use the order of classes: `class Kappa(Ordered, FromCounts, Metric)`.

    They are refused where neither the data set nor the parameter `order` gives one. A subclass with parameters of
    its own derives them from `OrderedParams`.
    """

    Params: ClassVar[type[Parameters]] = OrderedParams
    classes: tuple[str, ...]
    params: Any

    @property
    def ranks(self) -> NDArray[np.int64]:
        """[K] place of each class in the order, from 0. Raises `IncompatibleError` if they differ."""
        order = [str(c) for c in self.params.order] or list(self.classes)
        if sorted(order) != sorted(self.classes):
            raise IncompatibleError(
                f"Expected `order` as {', '.join(self.classes)} from first to last, each once, but got "
                f"{', '.join(order)}."
            )
        return np.array([order.index(c) for c in self.classes], dtype=np.int64)


def counted(predicted: Array, labels: Array, classes: int) -> Array:
    """The confusion matrix [K, K] float64; row: true class, column: predicted class [N]."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.float64)
