"""Counter-based random numbers: fixed values, independence of order, uniformity."""

from __future__ import annotations

import torch

from wbcbench.data.counter import counter_hash, derive_seed, permutation, uniform
from wbcbench.data.views import EpochDraws, epoch_order


def test_values_are_fixed_for_ever() -> None:
    """A change here changes every split stream: old records could no longer be reproduced."""
    assert derive_seed(0, "epoch", 3) == 200870010
    assert permutation(torch.arange(6), 0, "order", 1).tolist() == [4, 5, 0, 1, 3, 2]


def test_scalars_and_tensors_agree() -> None:
    ids = torch.arange(50)
    together = counter_hash(7, "x", 2, ids)
    assert [int(v) for v in together] == [counter_hash(7, "x", 2, i) for i in range(50)]


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    whole = uniform(3, "gain", 1, torch.arange(100))
    assert torch.equal(uniform(3, "gain", 1, torch.tensor([41, 7])), whole[[41, 7]])


def test_uniform_and_uncorrelated_across_every_counter() -> None:
    ids = torch.arange(20_000)
    rows = torch.stack([uniform(s, p, e, ids) for s in (0, 1) for p in ("a", "b") for e in (0, 1)])
    assert ((rows >= 0) & (rows < 1)).all()
    assert (rows.mean(1) - 0.5).abs().max() < 0.01
    assert (rows.var(1) - 1 / 12).abs().max() < 0.002
    off_diagonal = torch.corrcoef(rows) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.04  # 20,000 pairs: sd 0.007


def test_an_epoch_draws_every_cell_once_in_even_steps() -> None:
    train = torch.tensor([3, 5, 8, 13, 21, 34, 55])
    steps = epoch_order(train, 3, seed=0, epoch=0)
    assert [len(s) for s in steps] == [3, 2, 2]
    assert sorted(torch.cat(steps).tolist()) == train.tolist()
    assert torch.cat(steps).tolist() != torch.cat(epoch_order(train, 3, 0, 1)).tolist()
    assert [len(s) for s in epoch_order(train, 100, 0, 0)] == [7]


def test_a_step_s_numbers_depend_on_the_step_and_the_purpose_alone() -> None:
    draws = EpochDraws(seed=3, epoch=2, steps=5, device=torch.device("cpu"))
    few = draws.step(4).uniform(3, "rows")  # before any other, and fewer than are asked for later
    for step in range(5):
        there = uniform(3, "assemble", 2, step, "rows", torch.arange(7))
        assert torch.equal(draws.step(step).uniform(7, "rows"), there)
    assert torch.equal(few, draws.step(4).uniform(7, "rows")[:3])
    assert not torch.equal(draws.step(0).uniform(7, "rows"), draws.step(0).uniform(7, "slot:a"))
    assert not torch.equal(
        draws.step(0).uniform(7, "rows"), EpochDraws(3, 1, 5, few.device).step(0).uniform(7, "rows")
    )


def test_a_step_s_numbers_are_the_caller_s_to_change() -> None:
    draw = EpochDraws(0, 0, 1, torch.device("cpu")).step(0)
    first = draw.uniform(4, "x")
    kept = first.clone()
    first.zero_()
    assert torch.equal(draw.uniform(4, "x"), kept)
