"""Settings that a request leaves open: what a run gets, and that inspect, import and run say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cases.conftest import Screen, pictures
from wbcbench.data.auto import FEWEST_PASSES, MOST_PASSES, STEPS, Facts, completed, recommend
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request


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
    chosen = {c.key: c.value for c in recommend(Facts(1000, 64), {"budget.batch_size": 100})}
    assert chosen["budget.epochs"] == STEPS / 10
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
    assert {c.key for c in plan.chosen} == {"budget.batch_size", "augmentation.intensity"}
    written = {c.key: c.value for c in made_up.chosen}
    assert make_plan(load_request(flags=written), registry).trials == made_up.trials, "the values are the identity"


def test_a_request_that_is_completed_leaves_nothing_open() -> None:
    registry = load_plugins()[0]
    plan = make_plan(Request(), registry)
    whole, chosen = completed(Request(), plan.description)
    assert chosen == plan.chosen
    assert completed(whole, plan.description) == (whole, ())


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
        assert any(c["reason"] in note and c["key"] in note for note in run["notes"]), c
    (tmp_path / "mine" / "dataset.yaml").write_text(text + yaml.safe_dump(pinned))
    again = screen.document("run", "--config", "mine/dataset.yaml", "--dry-run", "--json")
    assert [t["trial_id"] for t in again["trials"]] == [t["trial_id"] for t in run["trials"]]
    assert not [note for note in again["notes"] if note.startswith("Chosen")]
