"""What stands for an absent modality: the mean, black pixels, or a learned token."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from wbcbench_plugins.fusions.early import Early

from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.scheduling.components import component
from wbcbench.spec.request import Choice, Request
from wbcbench.testing.toys import build_toy, toy_batch, toy_task
from wbcbench.training.build import Imputer, impute

Train = Callable[..., dict[str, Any]]


def absent() -> torch.Tensor:
    present = torch.ones(8, 2, dtype=torch.bool)
    present[::2, 1] = False
    return present


def filled(how: str, value: float) -> tuple[Any, Any]:
    fusion = build_toy(Early, toy_task())
    plain = copy.deepcopy(fusion).eval()
    fusion = impute(fusion, how).eval()
    with torch.no_grad():
        for m in fusion.task.modalities:
            fusion.imputer.fill(m).fill_(value)
    return plain, fusion


@pytest.mark.parametrize("how", ["zero", "token"])
def test_an_absent_image_is_replaced_and_others_stay(how: str) -> None:
    plain, fusion = filled(how, -0.7)
    images, present = toy_batch(fusion.task).images, absent()
    expected = dict(images) | {"v": torch.where(present[:, 1, None, None, None], images["v"], -0.7)}
    assert torch.equal(fusion(images, present)["joint"].logits, plain(expected)["joint"].logits)
    assert torch.equal(fusion(images=images, present=present)["joint"].logits, plain(expected)["joint"].logits)
    assert torch.equal(fusion(images)["joint"].logits, plain(images)["joint"].logits)


def test_noise_in_an_absent_image_changes_nothing() -> None:
    _, fusion = filled("token", 0.3)
    images, present = toy_batch(fusion.task).images, absent()
    noisy = images | {"v": torch.where(present[:, 1, None, None, None], images["v"], 1e3)}
    assert torch.equal(fusion(images, present)["joint"].logits, fusion(noisy, present)["joint"].logits)


def test_a_token_learns_from_cells_that_lack_its_modality_only() -> None:
    _, fusion = filled("token", 0.0)
    images = toy_batch(fusion.task).images
    fusion(images, absent())["joint"].logits.square().sum().backward()
    assert fusion.imputer.token_v.grad.abs().sum() > 0
    assert fusion.imputer.token_u.grad.abs().sum() == 0


def test_a_copy_has_a_token_of_its_own() -> None:
    _, fusion = filled("token", 0.0)
    twin = copy.deepcopy(fusion)
    with torch.no_grad():
        twin.imputer.token_v.fill_(5.0)
    images, present = toy_batch(fusion.task).images, absent()
    assert not torch.equal(fusion(images, present)["joint"].logits, twin(images, present)["joint"].logits)


def test_the_token_adds_one_number_a_pixel() -> None:
    task = toy_task()
    count = sum(p.numel() for p in Imputer(task, "token").parameters())
    assert count == sum(task.channels.values()) * task.image_size**2


def resolved(fusion: str, *overrides: tuple[str, Any]) -> dict[str, Any]:
    registry, _ = load_plugins(PluginOptions())
    request = Request(fusion=(fusion,), overrides={"fusion": dict(overrides)} if overrides else {})
    return component(registry, "fusion", request.fusion[0], request, request.fusion).params


def test_the_default_is_no_part_of_the_identity() -> None:
    assert resolved("early") == resolved("early:impute=mean")
    assert resolved("early:impute=token") == resolved("early") | {"impute": "token"}
    assert resolved("early", ("impute", "zero"))["impute"] == "zero"


def test_what_cannot_be_imputed_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="Did you mean 'token'"):
        resolved("early:impute=tokn")
    with pytest.raises(UsageError, match="handles absent modalities itself"):
        resolved("independent:impute=zero")
    assert "impute" not in resolved("independent", ("impute", "zero"))


def test_an_imputed_method_trains_and_is_a_method_of_its_own(train: Train) -> None:
    kinds = ("early", "early:impute=zero", "early:impute=token")
    policy = ("--policy", "modality_dropout")
    records = [train("--fusion", kind, *policy)["records"][0] for kind in kinds]
    assert len({r["trial_id"] for r in records}) == 3
    record = Store(Path(records[2]["path"]).parents[1]).load(records[2]["trial_id"])
    assert record.trial.label == "early:impute=token"
    assert record.weights()["imputer.token_u"].abs().sum() > 0
    black = Store(Path(records[1]["path"]).parents[1]).load(records[1]["trial_id"])
    assert (black.weights()["imputer.black_u"] < 0).all()
    assert json.loads((record.path / "spec.json").read_text())["method"]["fusion"]["params"]["impute"] == "token"


def test_choices_keep_their_own_parameters() -> None:
    choice = Choice.parse("early:impute=token")
    assert choice.params == {"impute": "token"}
