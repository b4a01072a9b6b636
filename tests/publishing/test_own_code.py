"""Code that a pack says to be wbcbench's, beside the code that is installed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wbcbench.publishing.board_files import PublishOptions
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.publish import publish
from wbcbench.publishing.verify import checked, installed_by, strange_code
from wbcbench.records.schema import Used
from wbcbench.records.store import Store
from wbcbench.registry.loading import load_plugins
from wbcbench.testing.records import fake_record, fake_trial, forge, rezip, unzip

SHA = "a" * 64


def used(**more: Any) -> Used:
    fields = {"kind": "fusion", "name": "early", "provider": "wbcbench", "version": "1", "sha256": SHA}
    return Used(**fields | more)


@pytest.mark.parametrize(
    ("claimed", "said"),
    [
        ({}, ""),
        (
            {"sha256": "b" * 64},
            f"with SHA-256 {'b' * 12}; here it is {SHA[:12]}: another release",
        ),
        ({"sha256": None}, "with SHA-256 none"),
        ({"name": "mine"}, "has none of that name"),
        ({"kind": "policy"}, "has none of that name"),
        ({"name": "late_prob"}, "the trial does not use it under that name"),
        ({"provider": "stranger", "sha256": None}, ""),
    ],
)
def test_what_is_claimed(tmp_path: Path, claimed: dict[str, Any], said: str) -> None:
    record = fake_record(Store(tmp_path), fake_trial(0, fusion="early"))
    result = record.result.model_copy(update={"components": [used(**claimed)]})
    installed = {("fusion", "early"): SHA, ("fusion", "late_prob"): SHA}
    record = replace(record, result=result)
    found = list(strange_code([record, record], installed))
    assert [level for level, _ in found] == (["look"] if said else [])
    assert said in "".join(text for _, text in found)
    assert all(text.endswith("(2 records)") for _, text in found)


def test_own_components_are_those_that_a_training_writes_down(tmp_path: Path) -> None:
    registry, _ = load_plugins()
    installed = installed_by(registry)
    early = registry.get("fusion", "early")
    assert installed["fusion", "early"] == early.sha256
    assert len(early.sha256) == 64
    assert all(kind and name for kind, name in installed)


def test_a_forged_provider_is_pointed_out_and_told_when_published(tmp_path: Path) -> None:
    """`mine` says that it is wbcbench's own; nothing else about it would be noticed."""
    installed = installed_by(load_plugins()[0])
    record = fake_record(Store(tmp_path / "strange"), fake_trial(0, fusion="mine"), provider="stranger")
    write_pack([record], tmp_path / "p.zip")
    files = unzip(tmp_path / "p.zip")
    sha = installed["fusion", "early"]
    forge(files, record.trial.id, {"components": [used(name="mine", sha256=sha).model_dump()]})
    rezip(tmp_path / "p.zip", files)
    with checked(tmp_path / "p.zip", None, lambda trial: False, installed=installed) as (judge, *_):
        assert judge.state("pack.components") == "look"
        assert judge.state("record.origin") == "ok"
    store = Store(tmp_path / "store")
    fake_record(store, fake_trial(0, fusion="early"), 5)
    asked = PublishOptions(title="Cells", resamples=100)
    done = publish(tmp_path / "boards" / "cells", [store.root], asked, (tmp_path / "p.zip",), installed=installed)
    assert any("fusion mine is stated to be wbcbench's" in line for line in done.told)


def test_a_real_training_is_of_the_code_that_is_installed(
    train: Callable[..., Any], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    train("--fusion", "early", "--kd", "none")
    store, pack = str(tmp_path / "store"), str(tmp_path / "p.zip")
    assert invoke("submit", "early", "--store", store, "-o", pack)[0] == 0
    _, out, _ = invoke("leaderboard", "verify", pack, "--against", store)
    assert "pack.components" in out
    assert "look: pack.components" not in out
