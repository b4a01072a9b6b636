"""Progress on stderr: one live table of all trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from wbcbench.terminal import drawn, one_line
from wbcbench.tracking import start_trackers, tracked

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial
    from wbcbench.scheduling.source import Outcome, Screen, Screens

QUIET_SECONDS = 10.0
"""Minimum time between plain lines on the progress of the same trial, or of all trials."""
RETOLD = 0.005
"""Seconds. An epoch that ends sooner after the previous one was not trained now: a resumed trial repeats it."""


Counted = Literal["trials", "proposals"]


@dataclass
class _Running:
    epoch: int = -1
    epochs: int = 0
    heard: float = 0.0
    speed: float = 0.0
    """Training images per second, over the last epoch."""


class Tally:
    """Counts trials by status, and estimates speed and remaining time.

    Args:
        total: number of trials; None if not known yet.
        train_cells: training cells of a trial; None: unknown, so no speed is shown.
        clock: returns seconds, monotonic.
        counted: `proposals`: those of a search are counted, and their teachers are not.
    """

    def __init__(
        self,
        total: int | None,
        train_cells: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        counted: Counted = "trials",
    ) -> None:
        self.total, self.counted = total, counted
        self.counts: Counter[str] = Counter()
        """Status of an outcome -> number of trials."""
        self.best: tuple[float, str] | None = None
        """Best validation macro-F1 of the finished trials, and the name of that trial."""
        self._cells, self._clock = train_cells, clock
        self._running: dict[str, _Running] = {}
        self._begun = clock()
        self._work = 0.0

    @property
    def running(self) -> int:
        return len(self._running)

    def started(self, key: str) -> None:
        """A trial begins."""
        self._running[key] = _Running(heard=self._clock())

    def epoch(self, key: str, epoch: int, epochs: int, score: float | None) -> None:
        """A trial finished epoch `epoch` (from 0) of `epochs`. A resumed trial reports its earlier ones again."""
        running = self._running.setdefault(key, _Running(heard=self._clock()))
        now = self._clock()
        repeated = now - running.heard < RETOLD
        if running.epoch < 0 and not self._work:
            self._begun = running.heard  # the time before the first trial is only spent once
        if repeated:
            running.epoch, running.epochs = epoch, epochs
            return
        if self._cells is not None:
            running.speed = self._cells / (now - running.heard)
        # Count only epochs that were trained now: a resumed trial starts at a later epoch.
        self._work += 1 / epochs
        running.epoch, running.epochs, running.heard = epoch, epochs, now

    def ended(self, key: str, status: str, name: str, score: float | None, teacher: bool = False) -> None:
        """A trial ended; `score` is its validation macro-F1 if it has a record."""
        self._running.pop(key, None)
        if teacher and self.counted == "proposals":
            return
        self.counts[status] += 1
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, name)

    def speed(self) -> float:
        """Training images per second of all running trials together."""
        return sum(r.speed for r in self._running.values())

    def seconds_left(self) -> float | None:
        """Estimated seconds until all are done, at the average speed so far; None: unknown."""
        if self.total is None or not self._work:
            return None
        begun = sum((r.epoch + 1) / r.epochs for r in self._running.values() if r.epochs)
        left = self.total - sum(self.counts.values()) - begun
        return max(0.0, left) * (self._clock() - self._begun) / self._work

    def line(self) -> str:
        """A summary of all trials in one line."""
        done = self.counts["done"] + self.counts["cached"]
        what = " proposals" if self.counted == "proposals" else ""
        parts = [f"{done}{what} done" if self.total is None else f"{done}/{self.total}{what} done"]
        parts.append(f"{self.running} running")
        if self.total is not None:
            parts.append(f"{max(0, self.total - sum(self.counts.values()) - self.running)} waiting")
        parts += [f"{self.counts[s]} {s}" for s in ("failed", "pruned") if self.counts[s]]
        if self.best is not None:
            parts.append(f"best validation macro-F1 {self.best[0]:.3f} ({self.best[1]})")
        if self.speed():
            parts.append(f"{self.speed():,.0f} images/s")
        left = self.seconds_left()
        if left is not None and (self.running or left):
            parts.append(f"about {spell(left)} left")
        return ", ".join(parts)


def spell(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class RunDisplay:
    """Shows every running trial with its epochs and validation score, and a summary line of all trials.

    Args:
        trials: number of trials; None if not known yet.
        console: the output; stderr by default.
        train_cells: training cells of a trial, to compute images per second; None: unknown.
        counted: see `Tally`.
    """

    def __init__(
        self,
        trials: int | None,
        console: Console | None = None,
        train_cells: int | None = None,
        counted: Counted = "trials",
    ) -> None:
        self.console = console or Console(file=drawn(sys.stderr))
        self.tally = Tally(trials, train_cells, counted=counted)
        self._printed: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        self._live: Live | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> RunDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            for bar in self._bars.copy():
                self._drop(bar)
            self._live.stop()

    def decoding(self, done: int, total: int, what: str) -> None:
        """Progress of reading images."""
        if self._progress is None:
            if done == total or self._may_print(what):
                self._print(f"{what}: {done}/{total}")
        else:
            self._show(what, what, done, total, "")
            if done == total:
                self._drop(what)

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self._print(sentence)

    def trial_started(self, planned: PlannedTrial) -> None:
        """A trial starts, or was found in the store."""
        self.tally.started(planned.trial.id)

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        """A trial finished an epoch."""
        key, score = planned.trial.id, row.get("val_macro_f1")
        self.tally.epoch(key, epoch, epochs, score)
        note = "" if score is None else f"validation macro-F1 {score:.3f}"
        if self._progress is not None:
            self._show(key, name_of(planned), epoch + 1, epochs, note)
        elif epoch + 1 == epochs or self._may_print(key):
            self._print(f"{name_of(planned)}: epoch {epoch + 1}/{epochs}, {note}")

    def trial_ended(self, outcome: Outcome) -> None:
        """A trial ended."""
        key, name = outcome.planned.trial.id, name_of(outcome.planned)
        self._drop(key)
        score = None if outcome.record is None else outcome.record.result.metrics["val"]["macro_f1"]
        self.tally.ended(key, outcome.status, name, score, outcome.planned.role == "teacher")
        if outcome.status == "failed":
            reason = (outcome.error.strip().splitlines() or ["no reason given"])[-1]
            self._print(f"{name}: failed: {reason}")
        elif self._progress is None and outcome.status == "cached":
            self._print(f"{name}: already done")
        elif self._progress is None and outcome.status == "pruned":
            self._print(f"{name}: stopped early")
        if self._progress is None and self.tally.total != 1 and outcome.status != "cached" and self._may_print(""):
            self._print(self.tally.line())

    def _table(self) -> Group:
        parts: list[Any] = [] if self._progress is None else [self._progress]
        # Text, not a string: a method's label such as single[nucleus] must not be parsed as markup.
        return Group(*parts, Text(self.tally.line()))

    def _show(self, key: str, name: str, done: int, total: int, note: str) -> None:
        assert self._progress is not None
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(one_line(name), total=total, note="")
        self._progress.update(self._bars[key], completed=done, note=note)

    def _drop(self, key: str) -> None:
        bar = self._bars.pop(key, None)
        if bar is not None and self._progress is not None:
            self._progress.remove_task(bar)

    def _may_print(self, key: str) -> bool:
        now = time.monotonic()
        quiet = now - self._printed.get(key, 0.0) <= QUIET_SECONDS
        if not quiet:
            self._printed[key] = now
        return not quiet

    def _print(self, line: str) -> None:
        self.console.print(one_line(line), highlight=False, markup=False, soft_wrap=True)


def name_of(planned: PlannedTrial) -> str:
    """`student independent + logits, seed 0`."""
    trial = planned.trial
    return one_line(f"{planned.role} {trial.title}, {trial.draw}")


def displays(
    shown: bool, store: Path, train_cells: int | None = None, track: str | Sequence[str] | None = None
) -> Screens:
    """Number of trials -> a display for them, which also logs to trackers.

    Args:
        shown: whether to show anything.
        store: where trackers write files, if they do.
        train_cells: see `RunDisplay`.
        track: names of trackers.

    Raises:
        UsageError: on creation of a display: unknown tracker, or its package is missing.
    """

    @contextmanager
    def screen(trials: int, counted: Counted = "trials") -> Iterator[Screen]:
        console = Console(file=drawn(sys.stderr), quiet=not shown)
        shows = RunDisplay(trials, console, train_cells, counted)
        with start_trackers(track, store) as trackers, shows as display:
            yield tracked(display, trackers)

    return screen


@contextmanager
def counting(what: str, total: int, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, updated by `done(so far, total)`; nothing elsewhere."""
    console = Console(file=drawn(sys.stderr))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task(one_line(what), total=total)
        yield lambda done, total: progress.update(task, completed=done)


__all__ = ["RunDisplay", "Tally", "counting", "displays", "name_of", "spell"]
