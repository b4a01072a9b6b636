"""Every built-in metric against its contract, and its values against scikit-learn or a closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef, mean_absolute_error, roc_curve

from wbcbench.boards.statistics import bootstrap_of, draws
from wbcbench.contracts import FromCounts, Metric, Ordered
from wbcbench.errors import DataError, IncompatibleError, PluginError, UsageError
from wbcbench.evaluation.scorers import scorer, value_of
from wbcbench.testing import MetricContract
from wbcbench.testing.components import registry
from wbcbench.testing.metrics import cells
from wbcbench.testing.promise import BrokenPromise

COSTS = [[0, 1, 2], [5, 0, 1], [9, 3, 0]]
PARAMS: dict[str, dict[str, Any]] = {"expected_cost": {"costs": COSTS}}
BUILTIN = [c.name for c in registry().components("metric") if c.builtin]
CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("name", BUILTIN, scope="class")
class TestMetrics(MetricContract):
    @pytest.fixture(autouse=True)
    def _choose(self, name: str) -> None:
        type(self).metric, type(self).params = name, PARAMS.get(name, {})


def _sensitivity(p: np.ndarray, y: np.ndarray, specificity: float) -> float:
    """From scikit-learn's ROC curves, all thresholds kept."""
    found = []
    for k in range(p.shape[1]):
        false, true, _ = roc_curve(y == k, p[:, k], drop_intermediate=False)
        found.append(true[1 - false >= specificity - 1e-12].max())
    return float(np.mean(found))


REFERENCES: dict[str, Callable[[Any, Any], float]] = {
    "quadratic_kappa:order=[a,b,c]": lambda p, y: cohen_kappa_score(y, p.argmax(1), weights="quadratic"),
    "quadratic_kappa:order=[b,a,c]": lambda p, y: cohen_kappa_score(
        np.array([1, 0, 2])[y], np.array([1, 0, 2])[p.argmax(1)], weights="quadratic"
    ),
    "ordinal_mae:order=[a,b,c]": lambda p, y: mean_absolute_error(y, p.argmax(1)),
    "mcc": lambda p, y: matthews_corrcoef(y, p.argmax(1)),
    "sensitivity_at_specificity": lambda p, y: _sensitivity(p, y, 0.95),
    "sensitivity_at_specificity:specificity=0.8": lambda p, y: _sensitivity(p, y, 0.8),
    "expected_cost:costs=[[0,1,2],[5,0,1],[9,3,0]]": lambda p, y: float(
        np.mean([COSTS[t][d] for t, d in zip(y, p.argmax(1), strict=True)])
    ),
    "expected_cost:decide=cheapest:costs=[[0,1,2],[5,0,1],[9,3,0]]": lambda p, y: float(
        np.mean([COSTS[t][int(np.argmin([sum(q[k] * COSTS[k][j] for k in range(3)) for j in range(3)]))]
                 for t, q in zip(y, p, strict=True)])
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFERENCES)
@pytest.mark.parametrize("skill", [0.0, 1.5])
def test_values_are_those_of_a_reference(text: str, skill: float) -> None:
    p, y = cells(skill, 157, 4)
    metric = scorer(registry(), text).of(CLASSES, ordered=False)
    assert value_of(metric, p, y) == pytest.approx(REFERENCES[text](p, y), abs=1e-12)


def test_values_by_hand() -> None:
    y, p = np.array([0, 0, 1, 2]), np.eye(3)[[0, 2, 1, 1]]
    by = {name: value_of(scorer(registry(), name).of(CLASSES, ordered=True), p, y)
          for name in ("quadratic_kappa", "ordinal_mae")}  # fmt: skip
    assert by["ordinal_mae"] == pytest.approx(3 / 4)  # 0, 2, 0, 1 places
    # squared distances 0, 4, 0, 1: 5; by chance sum_ij d_ij n_i n_j / 4 = (1*2*2 + 4*2*1 + 1*1*1 + 1*1*1 + 4*1*1
    # + 1*1*2) / 4 with true counts (2, 1, 1) and predicted counts (1, 2, 1)
    chance = sum((i - j) ** 2 * (2, 1, 1)[i] * (1, 2, 1)[j] for i in range(3) for j in range(3)) / 4
    assert by["quadratic_kappa"] == pytest.approx(1 - 5 / chance)


@pytest.mark.parametrize("text", [t for t in REFERENCES if "[b," not in t])
@pytest.mark.parametrize("grouped", [False, True])
def test_resamples_are_the_metric_of_resampled_cells(text: str, grouped: bool) -> None:
    p, y = cells(1.0, 40, 5)
    metric = scorer(registry(), text).of(CLASSES, ordered=False)
    clusters = np.arange(40) // 4 if grouped else np.arange(40)
    count = clusters.max() + 1
    found = bootstrap_of(metric, p, y, clusters, resamples=110, seed=3)
    expected = []
    for times in np.concatenate(list(draws(count, 110, 3))).astype(int):
        rows = np.repeat(np.arange(40), times[clusters])
        value = value_of(metric, p[rows], y[rows])
        expected.append(np.nan if value is None else value)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qwk", r"uses the order of classes, but the data set declares none.*quadratic_kappa:order=\[a,b,c\]"),
        ("qwk:order=[a,b]", "Expected `order` as a, b, c"),
        ("expected_cost", "but got neither"),
        ("expected_cost:costs=[[0,1],[1,0]]", r"expected 3 rows of 3 costs.*got rows of \[2, 2\]"),
        ("expected_cost:file=absent.csv", "file=absent.csv is not one"),
        ("mccc", "Did you mean 'mcc'"),
        ("macro_f2", "Did you mean 'macro_f1'"),
        ("mcc:alpha=1", "'alpha' is not a known key"),
        ("sensitivity_at_specificity:specificity=2", "less than or equal to 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        value_of(scorer(registry(), text).of(CLASSES, ordered=False), *cells(1.0))


def test_a_table_of_costs_is_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(",c,a,b\nb,1,5,0\na,2,0,1\nc,0,9,3\n")
    p, y = cells(1.0)
    one, other = (
        scorer(registry(), t)
        for t in (f"expected_cost:file={path}", f"expected_cost:costs={COSTS}".replace(" ", ""))
    )
    assert value_of(one.of(CLASSES, False), p, y) == value_of(other.of(CLASSES, False), p, y)
    path.write_text(",c,a,b\nb,1,5,0\na,2,0,1\nc,0,9,4\n")
    assert scorer(registry(), f"expected_cost:file={path}").identity != one.identity, "the content counts"
    path.write_text(",c,a\nb,1,5\n")
    with pytest.raises(DataError, match="Expected a table of costs"):
        scorer(registry(), f"expected_cost:file={path}").of(CLASSES, False)


def test_a_metric_that_fails_is_named() -> None:
    class Fails(Metric):
        name = "fails"

        def score(self, predictions, labels):  # type: ignore[no-untyped-def]
            return [1.0][3]

    with pytest.raises(PluginError, match="Metric 'fails' failed: IndexError"):
        value_of(Fails(CLASSES), *cells(1.0))


def test_an_order_is_needed_by_those_that_use_it() -> None:
    assert {n for n in BUILTIN if "Ordered" in registry().declared("metric", n).extras} == {
        n for n in BUILTIN if issubclass(registry().load(registry().get("metric", n)), Ordered)
    } == {"quadratic_kappa", "ordinal_mae"}  # fmt: skip
    with pytest.raises(IncompatibleError):
        scorer(registry(), "ordinal_mae").of(CLASSES, ordered=False)


class Share(Metric):
    """A sound metric, for the defects below: the mean probability of the true class."""

    name = "share"

    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        return float(predictions[np.arange(len(labels)), labels].mean())


class Upside(Share):
    higher_is_better = False


class Narrow(Share):
    range = (0.0, 0.5)


class ByPlace(Share):
    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        own = predictions[np.arange(len(labels)), labels]
        return float((own * np.linspace(0.5, 1, len(own))).mean())


class Changes(Share):
    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        predictions += 0.0
        predictions[0] = 1 / 3
        return super().score(predictions, labels)  # type: ignore[no-untyped-call]


class Drawn(Share):
    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        return super().score(predictions, labels) + 1e-3 * np.random.rand()  # type: ignore[no-untyped-call]


class Divides(Share):
    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        counts = np.bincount(labels, minlength=3).astype(float)
        return float(np.minimum(1 / counts, 1).mean())


class Summed(FromCounts, Metric):
    name = "summed"

    def of_counts(self, counts):  # type: ignore[no-untyped-def]
        return np.trace(counts, axis1=-2, axis2=-1) / counts.sum()


class Several(Share):
    def score(self, predictions, labels):  # type: ignore[no-untyped-def]
        return predictions.mean(0)


class Orderless(Ordered, FromCounts, Metric):
    name = "orderless"

    def of_counts(self, counts):  # type: ignore[no-untyped-def]
        return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


@pytest.mark.parametrize(
    ("cls", "test", "says"),
    [
        (Several, "test_types", "Return a float"),
        (Upside, "test_right_predictions_are_best", "`higher_is_better` is False"),
        (Narrow, "test_values_are_in_its_range", "outside of `range`"),
        (Divides, "test_any_cells_will_do", "numpy warns: divide by zero"),
        (ByPlace, "test_the_order_of_cells_does_not_matter", "order of cells"),
        (Changes, "test_it_is_a_pure_function", "changed the predictions"),
        (Drawn, "test_it_is_a_pure_function", "gave different values"),
        (Summed, "test_resamples_are_what_score_gives", "Sum over the last two axes only"),
        (Orderless, "test_the_order_of_classes_counts", "leave out `Ordered`"),
    ],
)
def test_defects_are_found(cls: type[Metric], test: str, says: str) -> None:
    contract = type("Contract", (MetricContract,), {"metric": cls})()
    with pytest.raises(BrokenPromise, match=says):
        getattr(contract, test)()


def test_a_sound_one_keeps_all_promises() -> None:
    contract = type("Contract", (MetricContract,), {"metric": Share})()
    for name in (n for n in dir(contract) if n.startswith("test_") and n != "test_the_order_of_classes_counts"):
        getattr(contract, name)()
