"""Timing on a machine that has other things to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wbcbench.evaluation import cost
from wbcbench.evaluation.cost import BURST, BURSTS, alone, least_seconds


class Machine:
    """A clock that a pass moves on: by what the network needs, and by what else happens to run."""

    def __init__(self, needs: float, disturbed: Iterator[float]) -> None:
        self.now, self.needs, self.disturbed, self.passes = 0.0, needs, disturbed, 0

    def once(self) -> None:
        self.passes += 1
        self.now += self.needs + next(self.disturbed)

    def clock(self) -> float:
        return self.now


def forever(*disturbances: float) -> Iterator[float]:
    while True:
        yield from disturbances


def test_other_work_on_the_machine_is_no_part_of_the_answer() -> None:
    """Two passes of three are disturbed most of the time: a median over all of them would be."""
    busy = [0.004, 0.0, 0.006] * 5
    machine = Machine(0.002, forever(*busy, *[0.0] * 6))
    assert least_seconds(machine.once, 0.3, machine.clock) == pytest.approx(0.002)


def test_one_lucky_pass_is_no_answer() -> None:
    machine = Machine(0.002, forever(*[0.0] * 8, -0.0015))
    assert least_seconds(machine.once, 0.3, machine.clock) == pytest.approx(0.002)


@pytest.mark.parametrize(("needs", "passes"), [(1e-6, 2 + BURST * BURSTS), (0.01, 2 + 9), (5.0, 2 + BURST)])
def test_it_takes_no_longer_than_it_may(needs: float, passes: int) -> None:
    machine = Machine(needs, forever(0.0))
    assert least_seconds(machine.once, 0.08, machine.clock) == pytest.approx(needs)
    assert machine.passes == passes


def test_measurements_wait_for_each_other_and_not_for_ever(tmp_path: Path) -> None:
    with alone(tmp_path) as first:
        assert first
        start = time.perf_counter()
        with alone(tmp_path, wait=0.1) as second:
            assert not second
        assert time.perf_counter() - start >= 0.1
    with alone(tmp_path, wait=0.0) as third:
        assert third


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with alone(tmp_path / "file", wait=0.0) as had:
        assert not had


def test_the_lock_is_the_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the store or the working folder: trials of two studies share the processor."""
    monkeypatch.setattr(cost.tempfile, "gettempdir", lambda: str(tmp_path))
    with alone(), alone(wait=0.0) as second:
        assert not second
