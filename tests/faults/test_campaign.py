"""Sweeps that are killed at random, or run by two at once, give the store of the undisturbed one, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path

import campaign as campaigns
import forked
import pytest

from wbcbench.records.store import Store
from wbcbench.testing.records import write_cells

TRIALS, EPOCHS = 6, 3


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.npz")


def args(cells: Path, store: Path) -> list[str]:
    command: list[str] = campaigns.command(cells, store, TRIALS, EPOCHS, "--executor", "inline")
    return command[3:]


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    code, err = forked.Forked(args(cells, folder / "store"), folder / "out").end()
    assert code == 0, err
    return folder / "store"


def test_a_sweep_killed_again_and_again_gives_the_same_store(
    cells: Path, undisturbed: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    tally = campaigns.Tally("inline")
    begin = partial(forked.Forked, args(cells, tmp_path / "store"), tmp_path / "out")
    campaigns.campaign(begin, tmp_path / "store", tally, random.Random(seed), 4, (0.0, 0.2))
    assert tally.drivers >= 1, "no kill came before the end: the test has shown nothing"
    assert tally.starts == tally.drivers + 1
    assert not tally.differences + campaigns.differences(tmp_path / "store", undisturbed), f"seed {seed}"


def test_the_comparison_sees_any_difference(undisturbed: Path, tmp_path: Path) -> None:
    for number, spoil in enumerate((
        lambda store, record: (record / "predictions.npz").write_bytes(b"other"),
        lambda store, record: (store / "work" / "x").mkdir() or (store / "work" / "x" / "left").touch(),
        lambda store, record: (store / "records" / ".tmp-x").mkdir(),
        lambda store, record: shutil.rmtree(record),
    )):  # fmt: skip
        store = tmp_path / str(number)
        shutil.copytree(undisturbed, store)
        assert not campaigns.differences(store, undisturbed)
        spoil(store, next((store / "records").iterdir()))
        assert campaigns.differences(store, undisturbed)


def test_two_users_run_overlapping_sweeps_on_one_store(cells: Path, undisturbed: Path, tmp_path: Path) -> None:
    """One asks for all, the other for a part in another order: each trial is trained once."""
    store = tmp_path / "store"
    mine = args(cells, store)
    theirs = [a.replace("early,independent", "independent").replace("none,logits", "logits,none") for a in mine]
    both = [forked.Forked(a, tmp_path / name) for name, a in (("mine", mine), ("theirs", theirs))]
    for process in both:
        code, err = process.end()
        assert code == 0, err
    first, second = (json.loads(p.out)["records"] for p in both)
    count = len(list((store / "records").iterdir()))
    assert len(first) == count > len(second)
    trained = [r["trial_id"] for r in first + second if r["status"] == "done"]
    assert sorted(trained) == sorted(set(trained)), "a trial was trained twice"
    assert len(trained) == count
    known = {r.trial.id: r.result.digest for r in Store(store).scan()[0]}
    assert all(known[r["trial_id"]] == r["digest"] for r in first + second)
    assert not campaigns.differences(store, undisturbed)
