"""The display of a run with the trackers that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from wbcbench.cli.progress import RunDisplay
from wbcbench.tracking import start_trackers, tracked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcbench.scheduling.source import Screen, Screens


def screens(
    track: str | Sequence[str] | None, store: Path, train_cells: int | None, console: Console | None = None
) -> Screens:
    """Number of trials -> a display for them, which tells the trackers too.

    Args:
        track: names of trackers.
        store: where trackers that write files put them.
        train_cells: see `RunDisplay`.
        console: where to; stderr by default.

    Raises:
        UsageError: when a display is made: no tracker is called so, or its package is missing.
    """

    @contextmanager
    def screen(trials: int) -> Iterator[Screen]:
        with start_trackers(track, store) as trackers, RunDisplay(trials, console, train_cells) as display:
            yield tracked(display, trackers)

    return screen


__all__ = ["screens"]
