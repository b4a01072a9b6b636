"""Settings that a request leaves open: what a run gets, and that inspect, import and run say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.cases.conftest import Screen, pictures
from wbcbench.data.auto import (
    FEWEST_PASSES,
    MOST_PASSES,
    STEPS,
    Facts,
    completed,
    recommend,
    variation_between_groups,
)
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request
from wbcbench.testing.components import component_class


def value(facts: Facts, key: str) -> Any:
    return {c.key: c.value for c in recommend(facts)}[key]


@pytest.mark.parametrize("cells", [2, 60, 300, 1_000, 5_000, 60_000, 1_000_000])
def test_small_sets_train_as_long_as_they_need(cells: int) -> None:
    facts = Facts(cells, 64)
    epochs, batch = value(facts, "budget.epochs"), value(facts, "budget.batch_size")
    steps = epochs * -(-cells // batch)
    assert FEWEST_PASSES <= epochs <= MOST_PASSES
    assert steps >= STEPS or epochs == MOST_PASSES
    assert steps <= 2 * STEPS or epochs == FEWEST_PASSES
    assert recommend(facts) == recommend(facts)


def test_a_batch_that_is_given_decides_the_epochs() -> None:
    chosen = {c.key: c.value for c in recommend(Facts(4000, 64), {"budget.batch_size": 100})}
    assert chosen["budget.epochs"] == STEPS / 40
    assert chosen["budget.batch_size"] == 100


def test_what_is_given_stays_and_auto_is_not_given() -> None:
    registry = load_plugins()[0]
    made_up = make_plan(Request(), registry)
    flags = {"budget.epochs": 3, "training.class_weighting": "none", "augmentation.noise": 0.1}
    plan = make_plan(load_request(flags={**flags, "budget.batch_size": "auto", "image_size": "auto"}), registry)
    trial = plan.trials[-1].trial
    protocol = trial.protocol
    assert (protocol.budget.epochs, protocol.budget.batch_size) == (3, 64)
    assert (protocol.augmentation.noise, protocol.augmentation.intensity) == (0.1, 0.15)
    assert trial.method.recipe.class_weighting == "none"
    assert {c.key for c in plan.chosen} == {"budget.batch_size", "augmentation.intensity", "selection.metric"}
    written = {c.key: c.value for c in made_up.chosen}
    assert make_plan(load_request(flags=written), registry).trials == made_up.trials, "the values are the identity"


def test_a_request_that_is_completed_leaves_nothing_open() -> None:
    registry = load_plugins()[0]
    plan = make_plan(Request(), registry)
    whole, chosen = completed(Request(), plan.description)
    assert chosen == plan.chosen
    assert completed(whole, plan.description) == (whole, ())


def donors(path: Path, shift: float, split: bool = False) -> Path:
    """60 cells of 6 donors in two modalities; of the first, every donor has an offset of his own."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 20, (60, 2, 8, 8))
    image[:, 0] += (shift * np.array([-3, -1, 0, 0, 1, 3]))[np.arange(60) % 6, None, None]
    arrays = {
        "image": image.clip(0, 255).astype(np.uint8),
        "label": np.arange(60) // 6 % 2,
        "group": np.arange(60) % 6,
    }
    if split:
        arrays["split"] = np.array(["train", "train", "val", "val", "train", "test"])[np.arange(60) % 6]
    np.savez(path, **arrays)
    return path


def test_views_vary_as_donors_do(tmp_path: Path) -> None:
    registry = load_plugins()[0]
    expected = 0.0
    for shift in (0.0, 10.0):
        path = str(donors(tmp_path / f"{shift}.npz", shift))
        flags: dict[str, Any] = {"dataset": {"name": "npz", "path": path}}
        plan = make_plan(load_request(flags=flags), registry)
        found = plan.trials[0].trial.protocol.augmentation.intensity
        again = make_plan(load_request(flags=flags), registry)
        assert again.trials == plan.trials
        if shift == 0.0:
            assert found == expected
            assert plan.trials[0].trial.protocol.selection.metric == "last"
            continue
        assert isinstance(found, dict)
        offsets = np.array([-3, -1, 0, 0, 1, 3]) * shift
        total = np.sqrt(20**2 + offsets.var())
        assert found["channel0"] == pytest.approx(min(0.5, np.std(offsets, ddof=1) / total * 3**0.5), abs=0.02)
        assert found["channel1"] < 0.1
        assert plan.trials[0].trial.protocol.selection.metric == "macro_f1"
        one = make_plan(load_request(flags={**flags, "modalities": ["channel1"]}), registry)
        alone = one.trials[0].trial.protocol.augmentation.intensity
        assert alone in (0.0, {"channel1": found["channel1"]})


def test_what_varies_is_not_measured_on_official_test_cells(tmp_path: Path) -> None:
    cls = component_class("dataset", "npz")
    measured = []
    for extreme in (0, 200):
        path = donors(tmp_path / f"{extreme}.npz", 5.0, split=True)
        with np.load(path) as z:
            arrays = {k: z[k].copy() for k in z.files}
        arrays["image"][arrays["split"] == "test"] = extreme
        np.savez(path, **arrays)
        measured.append(variation_between_groups(cls(cls.Params(path=str(path))).load()))
    assert measured[0] == measured[1]


def test_inspect_import_and_run_choose_the_same(screen: Screen, tmp_path: Path) -> None:
    pictures(tmp_path / "cells", ["a", "b"], 20, side=160)
    inspected = screen.document("data", "inspect", "cells", "--json")["chosen"]
    assert {c["key"] for c in inspected} >= {"budget.epochs", "image_size", "training.class_weighting"}
    screen("data", "import", "cells", "-o", "mine")
    text = (tmp_path / "mine" / "dataset.yaml").read_text()
    left_open = text[text.index("# What a run chooses") :]
    pinned = yaml.safe_load(re.sub("(?m)^# ", "", left_open.partition("\n")[2]))
    run = screen.document("run", "--config", "mine/dataset.yaml", "--dry-run", "--json")
    for c in inspected:
        section, _, field = c["key"].rpartition(".")
        assert (pinned[section][field] if section else pinned[field]) == c["value"]
        assert c in run["chosen"]
    (tmp_path / "mine" / "dataset.yaml").write_text(text + yaml.safe_dump(pinned))
    again = screen.document("run", "--config", "mine/dataset.yaml", "--dry-run", "--json")
    assert [t["trial_id"] for t in again["trials"]] == [t["trial_id"] for t in run["trials"]]
    assert again["chosen"] == []
    assert not [note for note in again["notes"] if note.startswith("Chosen")]
