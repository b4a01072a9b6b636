"""Progress of a run on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from wbcbench.scheduling.outcome import Outcome
    from wbcbench.scheduling.plan import PlannedTrial


class RunDisplay:
    """Shows which trial is trained, its epochs, and the validation score so far."""

    def __init__(self, trials: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._trials = trials
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._all: TaskID | None = None
        self._name = ""
        self._spoke = 0.0
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )

    def __enter__(self) -> RunDisplay:
        if self._progress is not None:
            self._progress.start()
            self._all = self._progress.add_task("trials", total=self._trials, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def decoding(self, done: int, total: int, what: str) -> None:
        """Progress of reading images."""
        if self._progress is None:
            if done == total or time.monotonic() - self._spoke > 10:
                self._spoke = time.monotonic()
                self._say(f"{what}: {done}/{total}")
            return
        if self._bar is None:
            self._bar = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._bar, completed=done)
        if done == total:
            self._drop_bar()

    def trial_started(self, planned: PlannedTrial) -> None:
        trial = planned.trial
        taught = "" if trial.method.kd == "none" else f" + {trial.method.kd}"
        self._name = f"{planned.role} {trial.label}{taught}, seed {trial.seed}"
        self._drop_bar()

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        note = f"val macro-F1 {row['val_macro_f1']:.3f}" if "val_macro_f1" in row else ""
        if self._progress is not None:
            if self._bar is None:
                self._bar = self._progress.add_task(self._name, total=epochs, note="")
            self._progress.update(self._bar, completed=epoch + 1, note=note)
        elif epoch + 1 == epochs or time.monotonic() - self._spoke > 10:
            self._spoke = time.monotonic()
            self._say(f"{self._name}: epoch {epoch + 1}/{epochs}, {note}")

    def trial_ended(self, outcome: Outcome) -> None:
        self._drop_bar()
        if outcome.status == "failed":
            reason = outcome.error.strip().splitlines()[-1]
            self._say(f"{self._name}: failed: {reason}")
        elif self._progress is None and outcome.status == "cached":
            self._say(f"{self._name}: already done")
        if self._progress is not None and self._all is not None:
            self._progress.advance(self._all)

    def _say(self, line: str) -> None:
        # Method labels such as single[nucleus] must not be read as markup.
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _drop_bar(self) -> None:
        if self._progress is not None and self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = None
