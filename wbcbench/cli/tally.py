"""How a run stands: counts, the best so far, speed, time left. Pure bookkeeping; draws nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

RETOLD = 0.005
"""Seconds. An epoch that ends sooner after the one before was not trained now: a resumed trial tells of it."""


@dataclass
class _Running:
    epoch: int = -1
    epochs: int = 0
    heard: float = 0.0
    speed: float = 0.0
    """Training images per second, over the last epoch."""


class Tally:
    """What has become of how many trials.

    Args:
        total: how many there will be; None if nobody knows yet.
        train_cells: training cells of a trial; None: unknown, and no speed is told.
        clock: seconds, monotonic.
    """

    def __init__(
        self, total: int | None, train_cells: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        """Status of an outcome -> number of trials."""
        self.best: tuple[float, str] | None = None
        """Best validation macro-F1 of a finished trial, and that trial's name."""
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
        """A trial has ended its epoch `epoch` (from 0) of `epochs`; a resumed one tells its earlier ones again."""
        running = self._running.setdefault(key, _Running(heard=self._clock()))
        now = self._clock()
        told_again = now - running.heard < RETOLD
        if running.epoch < 0 and not self._work:
            self._begun = running.heard  # what came before the first trial does not repeat
        if told_again:
            running.epoch, running.epochs = epoch, epochs
            return
        if self._cells is not None:
            running.speed = self._cells / (now - running.heard)
        # A resumed trial begins late; only what was trained here tells how long the rest takes.
        self._work += 1 / epochs
        running.epoch, running.epochs, running.heard = epoch, epochs, now

    def ended(self, key: str, status: str, name: str, score: float | None) -> None:
        """A trial has its outcome; `score` is its validation macro-F1 if it has a record."""
        self._running.pop(key, None)
        self.counts[status] += 1
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, name)

    def speed(self) -> float:
        """Training images per second of all running trials together."""
        return sum(r.speed for r in self._running.values())

    def seconds_left(self) -> float | None:
        """Seconds until all are done, if the rest goes as what was trained so far did; None: unknown."""
        if self.total is None or not self._work:
            return None
        begun = sum((r.epoch + 1) / r.epochs for r in self._running.values() if r.epochs)
        left = self.total - sum(self.counts.values()) - begun
        return max(0.0, left) * (self._clock() - self._begun) / self._work

    def line(self) -> str:
        """One line on all trials."""
        done = self.counts["done"] + self.counts["cached"]
        parts = [f"{done} done" if self.total is None else f"{done}/{self.total} done"]
        parts.append(f"{self.running} running")
        if self.total is not None:
            parts.append(f"{max(0, self.total - sum(self.counts.values()) - self.running)} waiting")
        parts += [f"{self.counts[s]} {s}" for s in ("failed", "pruned") if self.counts[s]]
        if self.best is not None:
            parts.append(f"best {self.best[0]:.3f} {self.best[1]}")
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
