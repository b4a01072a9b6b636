"""The display of a run: what it counts, and what it says on a terminal and elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from wbcbench.progress import RunDisplay, Tally, spell


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_tally_of_two_trials_at_once() -> None:
    clock = Clock()
    tally = Tally(6, train_cells=500, clock=clock)
    assert tally.line() == "0/6 done, 0 running, 6 waiting"
    tally.ended("cached", "cached", "early, seed 9", 0.5)
    tally.started("a")
    tally.started("b")
    clock.now += 10
    tally.epoch("a", 0, 2, 0.4)
    tally.epoch("b", 0, 2, 0.4)
    # 2 x 500 cells in 10 s; of 5 trials' work one is done in 10 s
    assert tally.line() == (
        "1/6 done, 2 running, 3 waiting, best validation macro-F1 0.500 (early, seed 9), 100 images/s, "
        "about 40 s left"
    )
    clock.now += 10
    tally.epoch("a", 1, 2, 0.7)
    tally.ended("a", "done", "late, seed 0", 0.7)
    tally.ended("b", "failed", "late, seed 1", None)
    assert tally.line().startswith("2/6 done, 0 running, 3 waiting, 1 failed, best validation macro-F1 0.700")
    tally.ended("c", "pruned", "gmu", None)
    assert "1 pruned" in tally.line()


def test_a_search_counts_proposals_and_no_teachers() -> None:
    tally = Tally(2, counted="proposals")
    for i in range(3):
        tally.ended(f"teacher {i}", "done", "single", 0.9, teacher=True)
    assert tally.line() == "0/2 proposals done, 0 running, 2 waiting"
    tally.ended("a", "done", "independent", 0.5)
    assert tally.line() == (
        "1/2 proposals done, 0 running, 1 waiting, best validation macro-F1 0.500 (independent)"
    )


def test_a_search_s_end_is_not_known() -> None:
    tally = Tally(None)
    tally.started("a")
    tally.epoch("a", 0, 3, None)
    assert tally.line() == "0 done, 1 running"


def test_epochs_that_a_resumed_trial_tells_again_were_not_trained_now() -> None:
    clock = Clock()
    tally = Tally(2, train_cells=500, clock=clock)
    tally.started("a")
    for epoch in range(8):
        clock.now += 1e-5
        tally.epoch("a", epoch, 10, None)
    assert tally.line() == "0/2 done, 1 running, 1 waiting", "neither speed nor time left are known yet"
    clock.now += 10
    tally.epoch("a", 8, 10, None)
    # one epoch of 10 s here: 1.1 trials of 10 epochs are left
    assert tally.line() == "0/2 done, 1 running, 1 waiting, 50 images/s, about 2 min left"


def test_a_resumed_trial_does_not_shorten_the_rest() -> None:
    clock = Clock()
    tally = Tally(2, clock=clock)
    tally.started("a")
    clock.now += 10
    tally.epoch("a", 8, 10, None)  # the first of its epochs that ran here
    assert tally.seconds_left() is not None
    assert round(tally.seconds_left() or 0) == 110  # 1.1 trials of 10 epochs of 10 s


def test_times_are_spelt_for_people() -> None:
    assert [spell(s) for s in (0.4, 89, 100, 3600, 5460, 12000)] == [
        "0 s", "89 s", "2 min", "60 min", "1 h 31 min", "3 h 20 min",
    ]  # fmt: skip


def planned(seed: int) -> Any:
    trial = SimpleNamespace(id=f"id{seed}", title="single[nucleus]", seed=seed, draw=f"seed {seed}")
    return SimpleNamespace(trial=trial, role="student")


def outcome(seed: int, status: str, error: str = "") -> Any:
    return SimpleNamespace(planned=planned(seed), status=status, error=error, record=None)


def played(terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, _environ={"TERM": "xterm"})
    with RunDisplay(3, console, train_cells=10) as display:
        display.decoding(1, 2, "images")
        display.decoding(2, 2, "images")
        for seed in (0, 1):
            display.trial_started(planned(seed))
            display.epoch_done(planned(seed), 0, 2, {"val_macro_f1": 0.25 * (seed + 1)})
        display.trial_ended(outcome(0, "done"))
        display.trial_ended(outcome(1, "failed", "Traceback\nValueError: no luck"))
        display.trial_started(planned(2))
        display.trial_ended(outcome(2, "cached"))
    return text.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = played(terminal=False).splitlines()
    assert lines[0] == "images: 1/2"
    assert "student single[nucleus], seed 0: epoch 1/2, validation macro-F1 0.250" in lines
    assert "student single[nucleus], seed 1: epoch 1/2, validation macro-F1 0.500" in lines
    assert "student single[nucleus], seed 1: failed: ValueError: no luck" in lines
    assert "student single[nucleus], seed 2: already done" in lines
    assert any(line.startswith("1/3 done, 1 running, 1 waiting") for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_a_terminal_shows_all_running_trials_and_a_line_on_all() -> None:
    text = played(terminal=True)
    assert "student single[nucleus], seed 1: failed: ValueError: no luck" in text
    assert "2/3 done, 0 running, 0 waiting, 1 failed" in text
