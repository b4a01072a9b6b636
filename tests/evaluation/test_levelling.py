"""Whether training had levelled off: known answers, false alarms, power, and the published histories."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wbcbench.evaluation.levelling import SHORTEST, Curve, Levelled, curve, levelled, moved
from wbcbench.records.frames import validation

PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "training-length" / "records.zip"
Floats = NDArray[np.float64]


def flat(t: Floats) -> Floats:
    return 0.75 + 0 * t


def early_climb(t: Floats) -> Floats:
    return 0.75 - 0.5 * np.exp(-25 * t)


def rising(t: Floats) -> Floats:
    return 0.72 + 0.04 * np.log2(t)


def falling(t: Floats) -> Floats:
    return 0.75 - 0.1 * np.maximum(0, t - 0.4)


def judge(
    truth: Callable[[Floats], Floats], epochs: int, seeds: int, noise: float, rng: np.random.Generator,
    annealed: bool = False,
) -> Levelled:  # fmt: skip
    """The verdict on simulated runs; `annealed`: noise only makes validation dip, in proportion to a cosine."""
    t = np.arange(1, epochs + 1) / epochs
    runs = []
    for _ in range(seeds):
        drawn = rng.normal(size=epochs)
        drawn = -np.abs(drawn) * (1 + np.cos(np.pi * t)) if annealed else drawn
        runs.append(curve(list(truth(t) + noise * drawn + 0.01 * rng.normal()), "macro_f1"))
    return levelled(runs, "macro_f1")


@pytest.mark.parametrize("epochs", [8, 11, 60])
@pytest.mark.parametrize(
    ("truth", "noise", "verdict"),
    [
        (flat, 0.002, "plateau"),
        (early_climb, 0.002, "plateau"),
        (rising, 0.002, "still improving"),
        (falling, 0.002, "past its best"),
        (flat, 0.08, "too noisy to tell"),
    ],
)
def test_known_answers(truth: Callable[[Floats], Floats], noise: float, verdict: str, epochs: int) -> None:
    told = Counter(judge(truth, epochs, 3, noise, np.random.default_rng(i)).verdict for i in range(40))
    assert told[verdict] >= 36, told  # type: ignore[index]


def test_the_size_and_its_error_are_those_of_the_simulation() -> None:
    found = [judge(rising, 16, 3, 0.004, np.random.default_rng(i)) for i in range(300)]
    changes = np.array([f.change for f in found], dtype=float)
    assert changes.mean() == pytest.approx(0.04, abs=0.003)  # one doubling
    errors = np.array([f.error for f in found], dtype=float)
    assert 0.7 < changes.std() / np.sqrt((errors**2).mean()) < 1.1
    assert str(found[0]).startswith("still improving (+0.0")


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("epochs", [8, 20, 60])
@pytest.mark.parametrize("noise", [0.01, 0.03])
@pytest.mark.parametrize("annealed", [False, True])
def test_without_progress_alarms_are_rare(epochs: int, seeds: int, noise: float, annealed: bool) -> None:
    rng = np.random.default_rng(7)
    told = Counter(judge(flat, epochs, seeds, noise, rng, annealed).verdict for _ in range(400))
    # the four epochs of half a run may all be in a dip
    limit = 0.16 if annealed and epochs == 8 and seeds == 1 else 0.06
    assert told["still improving"] <= limit * 400, told
    assert told["past its best"] <= 0.1 * 400, told
    if annealed:
        assert told["plateau"] >= 0.8 * 400, told


def test_a_loss_is_judged_like_its_mirror_image() -> None:
    rng = np.random.default_rng(1)
    for truth in (flat, rising, falling):
        values = list(truth(np.arange(1, 21) / 20) + 0.003 * rng.normal(size=20))
        up, down = (
            levelled([curve(v, m)], m) for v, m in ((values, "accuracy"), ([1 - v for v in values], "ece"))
        )
        assert (up.verdict, up.change, up.error) == (down.verdict, down.change, down.error)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.2, 0.4, 0.6, 0.8, 0.95, 1.0, 1.0, 1.0], "plateau"),  # nothing is left to gain
        ([0.96] * 4 + [0.97] * 4, "still improving"),  # a quarter of what was missing
        ([0.60] * 4 + [0.61] * 4, "plateau"),
        ([0.5] * (SHORTEST - 1), "too short to tell"),
        ([0.5], "too short to tell"),
        ([], "too short to tell"),
    ],
)
def test_what_counts_depends_on_what_is_missing(values: list[float], verdict: str) -> None:
    assert levelled([curve(values, "macro_f1")], "macro_f1").verdict == verdict


def test_one_seed_that_is_too_short_makes_a_method_too_short() -> None:
    assert levelled([curve([0.5] * 20, "nll"), None], "nll") == Levelled("too short to tell")
    assert levelled([], "nll") == Levelled("too short to tell")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("epoch,val_nll\n" + "".join(f"{i},{0.5 - i / 100}\n" for i in range(9)), True),
        ("epoch,val_nll\n" + "0,0.5\n" * 7, False),
        ("epoch,val_nll\n" + "0,nan\n" * 9, False),
        ("epoch,val_nll\n" + "0,x\n" * 9, False),
        ("epoch,val_nll\n" + "0\n" * 9, False),
        ("epoch,val_accuracy\n" + "0,1\n" * 9, False),
        ("", False),
    ],
)
def test_any_history_can_be_read(text: str, known: bool) -> None:
    assert (validation(text, "nll") is not None) == known


def test_published_runs_of_8_and_24_epochs_still_improved_and_of_60_and_120_did_not() -> None:
    runs: dict[tuple[int, str], list[Curve | None]] = {}
    with zipfile.ZipFile(PUBLISHED) as pack:
        for name in pack.namelist():
            if name.endswith("/history.csv"):
                result = json.loads(pack.read(name.replace("history.csv", "result.json")))
                own = runs.setdefault((result["key"]["budget"]["epochs"], result["label"]), [])
                own.append(validation(pack.read(name).decode(), "macro_f1"))
    assert {run: levelled(curves, "macro_f1").verdict for run, curves in runs.items()} == {
        (8, "early"): "still improving",
        (8, "independent"): "still improving",
        (24, "early"): "still improving",
        (24, "independent"): "still improving",
        (60, "early"): "plateau",
        (60, "independent"): "plateau",
        (120, "early"): "plateau",
        (120, "independent"): "plateau",
    }


@pytest.mark.parametrize(
    ("before", "after", "pairs", "tau"),
    [
        ([1, 2, 3], [10, 20, 30], 0, 1.0),
        ([1, 2, 3], [30, 20, 10], 3, -1.0),
        ([1, 2, 3], [10, 30, 20], 1, pytest.approx(1 / 3)),
        ([1, 1, 3], [10, 20, 30], 0, pytest.approx(2 / 3)),  # a tie before moved neither way
    ],
)
def test_pairs_that_changed_places(before: list[float], after: list[float], pairs: int, tau: float) -> None:
    assert moved(before, after) == (pairs, tau)
