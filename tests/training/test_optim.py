"""Schedule, class weights and state, against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from wbcbench.spec import Recipe
from wbcbench.training.loop import class_weights, learning_rate, make_optimiser, set_learning_rate
from wbcbench.training.state import TrainState


def test_linear_warm_up_then_cosine_to_zero() -> None:
    recipe = Recipe(lr=0.1, warmup_epochs=1)
    rates = [learning_rate(recipe, s, steps_per_epoch=10, epochs=5) for s in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) / 11 for s in range(10)])
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[30] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 20 / 40)))
    assert 0 < rates[-1] < 0.001
    assert learning_rate(Recipe(lr=0.1, warmup_epochs=0), 0, 10, 5) == pytest.approx(0.1)


def test_a_budget_shorter_than_the_warm_up_still_reaches_the_peak() -> None:
    rates = [learning_rate(Recipe(lr=1, warmup_epochs=5), s, 10, 1) for s in range(10)]
    assert max(rates) == pytest.approx(1)


@pytest.mark.parametrize(("how", "ratio"), [("none", 1), ("sqrt", math.sqrt(9)), ("inverse", 9)])
def test_class_weights_have_mean_one_over_cells(how: str, ratio: float) -> None:
    counts = torch.tensor([90, 10])
    weights = class_weights(counts, how)
    assert float(weights[1] / weights[0]) == pytest.approx(ratio, rel=1e-5)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1, rel=1e-5)


def test_a_class_without_training_cells_gets_a_finite_weight() -> None:
    assert torch.isfinite(class_weights(torch.tensor([5, 0]), "inverse")).all()


def test_no_weight_decay_on_vectors() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    groups = make_optimiser(module, Recipe(weight_decay=0.3)).param_groups
    assert {(g["weight_decay"], p.ndim) for g in groups for p in g["params"]} == {(0.3, 2), (0.0, 1)}


def step(state: TrainState, seed: int) -> None:
    torch.manual_seed(seed)
    net = state.modules["fusion"]
    loss = net(torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)).pow(2).mean()
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    state.update_average()


def fresh() -> TrainState:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    modules = torch.nn.ModuleDict({"fusion": net})
    return TrainState(modules, make_optimiser(modules, Recipe()), ema=0.9)


def test_a_checkpoint_brings_everything_back_bit_for_bit(tmp_path: Path) -> None:
    """Two steps, save, two more; against load, two more. Channels-last moments must land where they were."""
    a, b = fresh(), fresh()
    for seed in (1, 2):
        step(a, seed)
    a.epoch, a.history = 2, [{"epoch": 0, "loss": 1.5}]
    assert a.consider(0.5, a.modules["fusion"].state_dict())
    assert not a.consider(0.5, a.modules["fusion"].state_dict()), "ties keep the earlier epoch"
    a.save(tmp_path, "id")
    assert b.resume(tmp_path, "id")
    assert (b.epoch, b.best_score, b.best_epoch, b.history) == (2, 0.5, 2, a.history)
    for state in (a, b):
        set_learning_rate(state.optimiser, 0.01)
        for seed in (3, 4):
            step(state, seed)
    for x, y in ((a.modules.state_dict(), b.modules.state_dict()), (a.average, b.average), (a.best, b.best)):
        assert x is not None
        assert y is not None
        assert all(torch.equal(x[k], y[k]) for k in x)


def test_a_checkpoint_of_another_trial_or_a_broken_one_is_not_used(tmp_path: Path) -> None:
    a = fresh()
    step(a, 1)
    a.save(tmp_path, "id")
    assert not fresh().resume(tmp_path, "other")
    file = tmp_path / "checkpoint.safetensors"
    for content in (b"", file.read_bytes()[:50], b"\x00" * 64):
        file.write_bytes(content)
        assert not fresh().resume(tmp_path, "id")
    assert not fresh().resume(tmp_path / "nowhere", "id")


def test_a_checkpoint_of_a_network_that_has_changed_is_not_used(tmp_path: Path) -> None:
    a, b = fresh(), fresh()
    a.save(tmp_path, "id")
    b.modules["more"] = torch.nn.Linear(2, 2)
    before = {k: v.clone() for k, v in b.modules.state_dict().items()}
    assert not b.resume(tmp_path, "id")
    assert all(torch.equal(v, before[k]) for k, v in b.modules.state_dict().items())


def test_the_average_follows_the_weights() -> None:
    state = fresh()
    assert state.average is not None
    before = state.average["0.weight"].clone()
    step(state, 1)
    now = state.modules["fusion"].state_dict()["0.weight"]
    assert torch.allclose(state.average["0.weight"], 0.9 * before + 0.1 * now)
