"""Validation metrics of fitted combiners come from cells that the combiner was not fitted on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wbcbench.contracts import Cells, Combiner, Fusion, Output, Outputs, Task
from wbcbench.data.views import ResidentCells
from wbcbench.evaluation.metrics import score
from wbcbench.evaluation.predict import predict
from wbcbench.records.store import Store
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy
from wbcbench.training.fitted import FOLDS, fit_combiner, folds

COUNT = 200
CLASSES = ("x", "y", "z", "w")
FITTED = ["best_single", "late_temperature", "late_weighted", "stacking"]


def noise(present: np.ndarray | None = None) -> ResidentCells:
    """Cells whose images say nothing of their class."""
    rng = np.random.default_rng(0)
    images = {m: rng.integers(0, 256, (COUNT, 1, 8, 8), dtype=np.uint8) for m in "ab"}
    labels = rng.integers(0, len(CLASSES), COUNT)
    raw = Cells(images=images, labels=labels, classes=CLASSES, fingerprint="f", present=present)
    return ResidentCells(raw, ("a", "b"), np.arange(COUNT), torch.device("cpu"))


def fusion_of(name: str, **params: Any) -> Fusion:
    return build_toy(component_class("fusion", name), Task({"a": 1, "b": 1}, CLASSES, 8), **params).eval()


def test_every_fusion_that_fits_a_combiner_is_meant() -> None:
    found = {c.name for c in registry().components("fusion") if c.builtin and fusion_combines(c.name)}
    assert found == set(FITTED)


def fusion_combines(name: str) -> bool:
    cls = component_class("fusion", name)
    return issubclass(cls, Combiner)


def test_folds_are_stratified_and_a_function_of_the_cells() -> None:
    ids = torch.arange(5, 5 + 2 * 97, 2)
    labels = (torch.arange(97) % 7 == 0).long() + (torch.arange(97) % 3 == 0).long()
    found = folds(ids, labels)
    for group in (labels >= 0, *(labels == k for k in range(3))):
        sizes = torch.bincount(found[group], minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 1
    turned = torch.randperm(97, generator=torch.Generator().manual_seed(1))
    assert torch.equal(folds(ids[turned], labels[turned]), found[turned])
    assert not torch.equal(found, torch.arange(97) % FOLDS)


def test_a_stacker_on_noise_does_no_better_than_guessing() -> None:
    """Fitted and judged on the same cells, 36 numbers explain 200 cells of noise; cross-fitted they do not."""
    cells, val = noise(), torch.arange(COUNT)
    fusion = fusion_of("stacking", inverse_penalty=1e6)
    crossed = fit_combiner(fusion, cells, val, ("a", "b"))
    same = predict(fusion, cells, val, ("a", "b"))
    scores = [score(p.probabilities, p.labels, CLASSES).summary for p in (crossed, same)]
    flattering, honest = scores[1]["nll"], scores[0]["nll"]
    assert flattering is not None
    assert honest is not None
    assert flattering < np.log(4) - 0.01
    assert honest > np.log(4)


@pytest.mark.parametrize("name", FITTED)
def test_what_is_kept_is_fitted_on_all_and_each_fold_by_the_others(name: str) -> None:
    cells, val = noise(), torch.arange(3, COUNT, 2)
    fusion, twin, part = fusion_of(name), fusion_of(name), fusion_of(name)
    crossed = fit_combiner(fusion, cells, val, ("a", "b"))

    def fit(net: Fusion, ids: Tensor) -> None:
        with torch.no_grad():
            outputs: Outputs = net({m: cells.images(ids, m) for m in "ab"})
        net.fit_combiner(outputs, cells.labels[ids])

    fit(twin, val)
    state, plain = fusion.state_dict(), twin.state_dict()
    assert all(torch.allclose(state[k].double(), plain[k].double(), atol=1e-5) for k in state)
    assert crossed.cells.tolist() == val.tolist()
    assert crossed.labels.tolist() == cells.labels[val].tolist()
    fold = folds(val, cells.labels[val])
    fit(part, val[fold != 2])
    mine = (fold == 2).numpy()
    expected = predict(part, cells, val[fold == 2], ("a", "b"))
    assert np.allclose(crossed.probabilities[mine], expected.probabilities, atol=1e-4)
    assert np.allclose(crossed.routes["a"][mine], expected.routes["a"], atol=1e-5)


def test_only_complete_cells_fit_and_all_are_predicted() -> None:
    present = np.ones((COUNT, 2), bool)
    present[::3, 1] = False
    asked: list[int] = []

    class Watched(component_class("fusion", "late_weighted")):  # type: ignore[misc]
        def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
            asked.append(len(labels))
            assert all(o.shown is None or o.shown.all() for o in val_outputs.values())

    fusion = build_toy(Watched, Task({"a": 1, "b": 1}, CLASSES, 8)).eval()
    found = fit_combiner(fusion, noise(present), torch.arange(COUNT), ("a", "b"))
    assert len(found.cells) == COUNT
    whole = int(present.all(1).sum())
    assert len(asked) == FOLDS + 1
    assert asked[-1] == whole
    assert sum(whole - n for n in asked[:-1]) == whole


def test_few_cells_are_no_reason_to_fail() -> None:
    for count in (1, 2, 4):
        fusion = fusion_of("stacking")
        assert len(fit_combiner(fusion, noise(), torch.arange(count), ("a", "b")).cells) == count


def test_a_record_holds_cross_fitted_validation_and_refitted_test(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    cls = component_class("fusion", "late_weighted")
    real = cls.fit_combiner

    def watched(self: Any, outputs: Outputs, labels: Tensor) -> None:
        seen.append(len(labels))
        real(self, outputs, labels)

    monkeypatch.setattr(cls, "fit_combiner", watched)
    (row,) = train("--fusion", "late_weighted", "--epochs", "1")["records"]
    record = Store(Path(row["path"]).parents[1]).load(row["trial_id"])
    cells = len(record.predictions["val_cells"])
    assert len(seen) == FOLDS + 1
    assert seen[-1] == cells
    assert sum(cells - n for n in seen[:-1]) == cells


def test_a_network_without_a_combiner_is_asked_no_more_than_before() -> None:
    fusion = fusion_of("late_prob")
    assert not isinstance(fusion, Combiner)
    assert isinstance(next(iter(fusion({m: torch.zeros(2, 1, 8, 8) for m in "ab"}).values())), Output)
