"""Metrics of the registry with their parameters, ready to score stored predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wbcbench.contracts.metric import Metric, Ordered
from wbcbench.contracts.params import Parameters, identity
from wbcbench.data.cache import with_digests
from wbcbench.errors import IncompatibleError, PluginError, UnknownNameError, UsageError, did_you_mean
from wbcbench.evaluation import metrics
from wbcbench.isolation import contained
from wbcbench.registry import Registry, qualified_name
from wbcbench.spec import digest
from wbcbench.spec.load import validate
from wbcbench.spec.request import Choice

T = TypeVar("T")
ORDINAL = ("quadratic_kappa", "ordinal_mae")
"""The metrics that boards of ordered classes have."""


@dataclass(frozen=True)
class Scorer:
    """A metric of the registry with its parameters."""

    name: str
    """What tables call it: `quadratic_kappa`, `expected_cost:file=costs.csv`."""
    cls: type[Metric]
    params: Parameters
    doc: str
    """One sentence."""
    code: str
    """SHA-256 of its file."""

    @property
    def properties(self) -> metrics.Metric:
        """As of a built-in metric."""
        low, high = (math.inf * s if v is None else float(v) for s, v in zip((-1, 1), self.cls.range, strict=True))
        return metrics.Metric(self.cls.higher_is_better, (low, high), self.doc)

    @cached_property
    def identity(self) -> str:
        """Changes with its code and its parameters."""
        return digest([self.name, self.code, identity(self.params)])

    def of(self, classes: tuple[str, ...], ordered: bool) -> Metric:
        """The metric for these classes, in their order if they are `ordered`.

        Raises:
            IncompatibleError: it cannot be computed for them.
        """
        if issubclass(self.cls, Ordered) and not ordered and not getattr(self.params, "order", []):
            raise IncompatibleError(
                f"{self.name} uses the order of classes, but the data set declares none for {', '.join(classes)}. "
                f"If they have one, state it: {self.name}:order=[{','.join(classes)}]"
            )
        return called(self.name, lambda: self.cls(classes, self.params))


def scorer(registry: Registry, text: str | Choice) -> Scorer:
    """The metric that `name` or `name:key=value` means. Raises `UsageError` and what `Registry.resolve` raises."""
    try:
        choice = Choice.parse(text)
    except ValueError as error:
        raise UsageError(f"Metric: {error}.") from error
    try:
        resolved = registry.resolve("metric", choice.name)
    except UnknownNameError:
        every = [*metrics.METRICS, *registry.names("metric")]
        near = did_you_mean(choice.name, every)
        raise UsageError(f"No metric is called '{choice.name}'.{near} There are: {', '.join(every)}.") from None
    component = resolved.component
    declared = registry.declaration(component)
    cls: Any = registry.load(component)
    given = validate(cls.Params, {**resolved.params, **choice.params}, f"metric {choice.name}")
    params = with_digests(given, f"metric {choice.name}")
    bare = component.name if component.name not in metrics.METRICS else qualified_name(component)
    stated = [f"{k}={v}" for k, v in given.model_dump(mode="json", exclude_defaults=True).items()]
    return Scorer(":".join([bare, *stated]), cls, params, declared.summary.rstrip("."), component.sha256)


def known(name: str, scorers: tuple[Scorer, ...]) -> metrics.Metric:
    """The properties of a built-in metric or one of these. Raises `UsageError`."""
    found = metrics.METRICS | {s.name: s.properties for s in scorers}
    if name not in found:
        raise UsageError(
            f"No metric is called '{name}'.{did_you_mean(name, found)} There are: {', '.join(found)}."
        )
    return found[name]


def readable(metric: Metric, probabilities: ArrayLike) -> NDArray[Any]:
    """What the metric reads, from probabilities [N, K]: these as float64, or the most probable classes [N]."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p / p.sum(axis=1, keepdims=True)
    return np.asarray(p.argmax(axis=1)) if metric.predictions == "classes" else p


def class_values(metric: Metric, predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """[K] of a metric per class, else [1]; NaN where undefined. `predictions` as of `readable`. See `called`."""
    found = np.asarray(metric.score(predictions, labels), dtype=np.float64)
    expected = (len(metric.classes),) if metric.per_class else ()
    if found.shape != expected:
        raise PluginError(
            f"Expected {list(expected) or 'a number'} of metric '{metric.name}', but got {list(found.shape)}."
        )
    return found.reshape(-1)


def mean_defined(values: NDArray[Any]) -> NDArray[np.float64]:
    """The mean [...] over the last axis of what is finite; NaN without any."""
    there = np.isfinite(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def value_of(metric: Metric, probabilities: ArrayLike, labels: NDArray[Any]) -> float | None:
    """The metric of N cells' probabilities [N, K]; None: undefined."""
    given = readable(metric, probabilities)
    found = float(mean_defined(called(metric.name, lambda: class_values(metric, given, labels))))
    return found if math.isfinite(found) else None


def called(name: str, function: Callable[[], T]) -> T:
    """What a metric's code returns. What it raises becomes a `PluginError`, unless it is an error for users."""
    try:
        with contained():
            return function()
    except (UsageError, PluginError):
        raise
    except Exception as error:
        raise PluginError(f"Metric '{name}' failed: {type(error).__name__}: {error}.") from error


__all__ = [
    "ORDINAL", "Scorer", "called", "class_values", "known", "mean_defined", "readable", "scorer", "value_of",
]  # fmt: skip
