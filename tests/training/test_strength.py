"""Gradient ratios of distillers, and weights that are balanced by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wbcbench.records.store import Store
from wbcbench.training import loop, strength
from wbcbench.training.strength import balancing_weight, gradient_ratios, measured_epochs

Train = Callable[..., dict[str, Any]]
NAN = float("nan")


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [
        (1, 1, [0]),
        (4, 18, [0]),
        (8, 37, [0, 4, 7]),  # Python rounds 3.5 to even
        (10, 1000, list(range(10))),
        (100, 1000, [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]),
    ],
)
def test_measurements_are_few_and_spread_over_the_training(epochs: int, steps: int, expected: list[int]) -> None:
    assert sorted(measured_epochs(epochs, steps)) == expected


def losses(which: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A trunk w with two heads, and two losses of known gradients."""
    net = torch.nn.ParameterDict({n: torch.nn.Parameter(torch.ones(2)) for n in ("trunk", "task", "kd")})
    task = (3 * net["trunk"]).sum() + (100 * net["task"]).sum()
    kd = {
        "shared": (6 * net["trunk"]).sum() + (7 * net["kd"]).sum(),
        "apart": net["kd"].sum(),
        "constant": torch.tensor(1.0),
        "zero": (0 * net["trunk"]).sum(),
    }[which]
    return net, task, kd


@pytest.mark.parametrize(
    ("which", "ratio", "weight"),
    [("shared", 2.0, 0.5), ("apart", NAN, 9.0), ("constant", NAN, 9.0), ("zero", 0.0, 9.0)],
)  # fmt: skip
def test_a_ratio_is_over_the_parameters_that_both_losses_reach(which: str, ratio: float, weight: float) -> None:
    net, task, kd = losses(which)
    found = gradient_ratios(net, task, {"kd": kd})["kd"]
    assert float(found) == pytest.approx(ratio, nan_ok=True)
    assert float(balancing_weight(found, 9.0)) == pytest.approx(weight)
    nothing = gradient_ratios(net, torch.tensor(0.0), {"kd": task})["kd"]
    assert math.isnan(float(nothing))
    (task + kd).backward()  # the graph is still there, and no gradient was left in the parameters
    assert net["task"].grad is not None
    assert net["task"].grad.tolist() == [100.0, 100.0]


def student(document: dict[str, Any]) -> dict[str, Any]:
    (only,) = [r for r in document["records"] if r["role"] == "student"]
    return only


def test_a_measured_training_gives_the_same_bits(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """CRD has state and draws numbers; its balanced weight does not depend on measuring either."""
    args = ("--fusion", "early", "--kd", "crd:negatives=8:dim=8", "--set", "batch_size=8")
    monkeypatch.setattr(loop, "measured_epochs", lambda *_: frozenset())
    plain = student(train(*args, store="plain"))
    monkeypatch.setattr(loop, "measured_epochs", lambda epochs, _: frozenset(range(epochs)))
    measured = student(train(*args, store="measured"))
    assert measured["digest"] == plain["digest"]
    pulls = [
        Store(Path(r["path"]).parent.parent).load(r["trial_id"]).result.pulls["crd"] for r in (plain, measured)
    ]
    assert pulls[0].weight == pulls[1].weight
    assert (list(pulls[0].ratios), list(pulls[1].ratios)) == ([], [0, 1])


def test_balanced_weights_start_at_their_share(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several distillers each; a ramp such as DKD's does not count."""
    monkeypatch.setattr(strength, "SHARE", 0.5)
    kd = "rkd:weight=balanced+dkd:weight=balanced:warmup=1"
    document = train("--fusion", "early", "--kd", kd, "--epochs", "1", "--set", "batch_size=64")
    pulls = Store(Path(student(document)["path"]).parent.parent).load(student(document)["trial_id"]).result.pulls
    assert pulls["rkd"].ratios[0] == pytest.approx(0.5, rel=1e-3)  # one step: the first is the middle one
    assert pulls["dkd"].ratios[0] == 0
    assert 0 < pulls["dkd"].weight < 10
