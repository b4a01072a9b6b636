"""Progress of a run on stderr: one live table of all trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from wbcbench.cli.tally import Tally

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial
    from wbcbench.scheduling.source import Outcome

QUIET_SECONDS = 10.0
"""Plain lines say how a running trial does, and how all of them do, at most so often."""


class RunDisplay:
    """Shows every running trial with its epochs and validation score, and a line on all of them.

    Args:
        trials: how many there will be; None if nobody knows yet.
        console: where to; stderr by default.
        train_cells: training cells of a trial, from which images per second are reckoned; None: unknown.
    """

    def __init__(self, trials: int | None, console: Console | None = None, train_cells: int | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.tally = Tally(trials, train_cells)
        self._spoke: dict[str, float] = {}
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
            if done == total or self._may_speak(what):
                self._say(f"{what}: {done}/{total}")
        else:
            self._show(what, what, done, total, "")
            if done == total:
                self._drop(what)

    def trial_started(self, planned: PlannedTrial) -> None:
        """A trial begins, or was found in the store."""
        self.tally.started(planned.trial.id)

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        """A trial has one more epoch behind it."""
        key, score = planned.trial.id, row.get("val_macro_f1")
        self.tally.epoch(key, epoch, epochs, score)
        note = "" if score is None else f"val macro-F1 {score:.3f}"
        if self._progress is not None:
            self._show(key, name_of(planned), epoch + 1, epochs, note)
        elif epoch + 1 == epochs or self._may_speak(key):
            self._say(f"{name_of(planned)}: epoch {epoch + 1}/{epochs}, {note}")

    def trial_ended(self, outcome: Outcome) -> None:
        """A trial has its outcome."""
        key, name = outcome.planned.trial.id, name_of(outcome.planned)
        self._drop(key)
        score = None if outcome.record is None else outcome.record.result.metrics["val"]["macro_f1"]
        self.tally.ended(key, outcome.status, name, score)
        if outcome.status == "failed":
            reason = (outcome.error.strip().splitlines() or ["no reason given"])[-1]
            self._say(f"{name}: failed: {reason}")
        elif self._progress is None and outcome.status == "cached":
            self._say(f"{name}: already done")
        elif self._progress is None and outcome.status == "pruned":
            self._say(f"{name}: stopped early")
        if self._progress is None and self.tally.total != 1 and outcome.status != "cached" and self._may_speak(""):
            self._say(self.tally.line())

    def _table(self) -> Group:
        parts: list[Any] = [] if self._progress is None else [self._progress]
        # Text, not a string: a method's label such as single[nucleus] must not be read as markup.
        return Group(*parts, Text(self.tally.line()))

    def _show(self, key: str, name: str, done: int, total: int, note: str) -> None:
        assert self._progress is not None
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._bars[key], completed=done, note=note)

    def _drop(self, key: str) -> None:
        bar = self._bars.pop(key, None)
        if bar is not None and self._progress is not None:
            self._progress.remove_task(bar)

    def _may_speak(self, key: str) -> bool:
        now = time.monotonic()
        quiet = now - self._spoke.get(key, 0.0) <= QUIET_SECONDS
        if not quiet:
            self._spoke[key] = now
        return not quiet

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def name_of(planned: PlannedTrial) -> str:
    """`student independent + logits, seed 0`."""
    trial = planned.trial
    return f"{planned.role} {trial.title}, seed {trial.seed}"
