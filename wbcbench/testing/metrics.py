"""The contract of metrics as tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wbcbench.contracts.metric import FromCounts, MeanOverCells, Metric, Ordered, counted
from wbcbench.evaluation.scorers import mean_defined, readable
from wbcbench.testing.components import component_class
from wbcbench.testing.effects import check_effects
from wbcbench.testing.promise import described, made, promise

CLASSES = ("a", "b", "c")
Array = NDArray[Any]


class MetricContract:
    """What every metric must satisfy. `metric` is a registered name, a class, or the path of a plugin file."""

    metric: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}

    @property
    def cls(self) -> type[Metric]:
        return component_class("metric", self.metric)  # type: ignore[no-any-return]

    def build(self, params: Mapping[str, Any] | None = None) -> Metric:
        given = self.cls.Params(**(self.params if params is None else params))
        return made(self.cls, "classes, params", CLASSES, given)  # type: ignore[no-any-return]

    def test_types(self) -> None:
        """`score` returns a number, or one per class if `per_class`."""
        metric = self.build()
        p, labels = cells(2.0)
        found = metric.score(readable(metric, p), labels)
        wanted = (len(CLASSES),) if metric.per_class else ()
        shape = np.shape(found) if isinstance(found, float | int | np.ndarray | np.number) else None
        promise(
            shape == wanted,
            f"`score` returned {described(found)} of shape {list(shape or ())} for {len(CLASSES)} classes."
            if shape is not None
            else f"`score` returned {described(found)}.",
            "Return a float; or [K] and `per_class = True`.",
            "score",
        )

    def test_right_predictions_are_best(self) -> None:
        """Right predictions get a better value than guesses, in the direction that it declares."""
        metric = self.build()
        sign = 1 if metric.higher_is_better else -1
        best, middle, worst = (sign * self.value(metric, *cells(skill)) for skill in (50.0, 2.0, 0.0))
        promise(
            best >= middle >= worst and best > worst,
            f"Right predictions get {sign * best:g}, good ones {sign * middle:g}, guesses {sign * worst:g}, but "
            f"`higher_is_better` is {metric.higher_is_better}.",
            "Correct `higher_is_better`, or the sign of what `score` returns.",
            "score",
        )

    def test_values_are_in_its_range(self) -> None:
        """Every value is within `range`, for good predictions, guesses and wrong ones."""
        metric = self.build()
        low, high = metric.range
        for p, labels in samples():
            value = self.value(metric, p, labels)
            promise(
                np.isnan(value)
                or ((low is None or value >= low - 1e-9) and (high is None or value <= high + 1e-9)),
                f"The value {value:g} is outside of `range` = {metric.range}.",
                "Correct `range`; None is for an end without a limit.",
                "score",
            )

    def test_any_cells_will_do(self) -> None:
        """Cells of some classes only, of one, or a single cell give a number or NaN, and no warning."""
        metric = self.build()
        for p, labels in samples():
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                try:
                    value = np.asarray(metric.score(readable(metric, p), labels), dtype=np.float64)
                except RuntimeWarning as warning:
                    promise(
                        False,
                        f"For {len(labels)} cells of class {', '.join(CLASSES[k] for k in np.unique(labels))} "
                        f"numpy warns: {warning}.",
                        "Return NaN where the value is undefined: np.divide(a, b, out=..., where=b > 0).",
                        "score",
                    )
            promise(
                not np.isinf(value).any(), "`score` returned an infinite value.", "Return NaN instead.", "score"
            )

    def test_the_order_of_cells_does_not_matter(self) -> None:
        """The same cells in another order give the same value."""
        metric = self.build()
        p, labels = cells(1.0)
        order = np.random.default_rng(1).permutation(len(labels))
        promise(
            np.allclose(self.value(metric, p, labels), self.value(metric, p[order], labels[order])),
            "The value changes with the order of cells.",
            "Use no positions of cells, and sort where ties matter.",
            "score",
        )

    def test_it_is_a_pure_function(self) -> None:
        """Twice the same predictions give twice the same value, and the predictions are left as they were."""
        metric = self.build()
        p, labels = cells(1.0)
        given = readable(metric, p)
        before = given.copy(), labels.copy()
        values = [np.asarray(metric.score(given, labels)) for _ in range(2)]
        other = np.asarray(self.build().score(given, labels))
        promise(
            np.array_equal(given, before[0]) and np.array_equal(labels, before[1]),
            "`score` changed the predictions or the labels that it was given.",
            "Work on a copy.",
            "score",
        )
        promise(
            all(np.array_equal(values[0], v, equal_nan=True) for v in (values[1], other)),
            "Two calls with the same predictions gave different values.",
            "Use no random numbers, and keep nothing from one call for the next.",
            "score",
        )

    def test_resamples_are_what_score_gives(self) -> None:
        """`of_counts` of several confusion matrices at once, or the mean of `of_cells`, is what `score` gives."""
        metric = self.build()
        sets = [(p, labels) for p, labels in samples() if len(labels) > 1]
        alone = [np.asarray(metric.score(readable(metric, p), labels)) for p, labels in sets]
        if isinstance(metric, FromCounts):
            counts = [counted(readable(metric, p), labels, len(CLASSES)) for p, labels in sets]
            found = np.asarray(metric.of_counts(np.stack(counts)))
            promise(
                found.shape == np.stack(alone).shape and np.allclose(found, np.stack(alone), equal_nan=True),
                f"`of_counts` of {len(sets)} matrices returned {list(found.shape)} with other values than of each "
                "alone.",
                "Sum over the last two axes only: counts.sum((-2, -1)), and keep the axes before them.",
                "of_counts",
            )
        if isinstance(metric, MeanOverCells):
            for (p, labels), value in zip(sets, alone, strict=True):
                each = np.asarray(metric.of_cells(readable(metric, p), labels))
                promise(
                    each.shape == labels.shape and np.allclose(each.mean(), value),
                    f"`of_cells` returned {list(each.shape)} for {len(labels)} cells, with a mean that is not "
                    "what `score` gives.",
                    "Return one value per cell [N], and leave `score` to the base class.",
                    "of_cells",
                )

    def test_the_order_of_classes_counts(self) -> None:
        """A metric that uses the order prefers a confusion of neighbours to one of the extremes."""
        metric = self.build()
        if not isinstance(metric, Ordered):
            pytest.skip("it uses no order")
        labels = np.arange(60) % 3
        near = np.where(labels == 0, 1, labels)
        far = np.where(labels == 0, 2, labels)
        sign = 1 if metric.higher_is_better else -1
        values = [sign * self.value(metric, np.eye(3)[x], labels) for x in (near, far)]
        promise(
            values[0] > values[1],
            "Confusing neighbours of the order is not better than confusing its ends.",
            "Use the distance of `self.ranks`; without the order, leave out `Ordered`.",
            "score",
        )

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes the value, unless its `when` says that it does not."""

        def trace(params: Mapping[str, Any], **facts: Any) -> torch.Tensor:
            metric = self.build(params)
            values = [np.asarray(metric.score(readable(metric, p), y)).reshape(-1) for p, y in samples()]
            return torch.as_tensor(np.nan_to_num(np.concatenate(values)))

        check_effects(self.cls.Params, self.params, trace, "score")

    def value(self, metric: Metric, p: Array, labels: Array) -> float:
        """The value, or the mean over the classes that have one."""
        return float(mean_defined(np.asarray(metric.score(readable(metric, p), labels), np.float64).reshape(-1)))


def cells(skill: float, count: int = 60, seed: int = 0) -> tuple[Array, Array]:
    """Probabilities [N, 3] that lean towards the truth by `skill` (0: guesses), and labels [N]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    z = rng.normal(size=(count, len(CLASSES))) + skill * np.eye(len(CLASSES))[labels]
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), labels


def samples() -> Iterator[tuple[Array, Array]]:
    """Good predictions, guesses, wrong ones; cells of two classes, of one, all alike; one cell."""
    p, labels = cells(1.0)
    yield p, labels
    yield cells(0.0, 31, 1)
    yield cells(50.0, 30, 2)
    yield cells(-50.0, 30, 3)
    yield p[labels < 2], labels[labels < 2]
    yield p[labels == 1], labels[labels == 1]
    yield np.full((12, 3), 1 / 3), np.arange(12) % 3
    yield p[:1], labels[:1]
