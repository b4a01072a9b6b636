"""A display that also tells trackers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wbcbench.spec.canonical import flat
from wbcbench.tracking.tracker import Tracker

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import PlannedTrial
    from wbcbench.scheduling.source import Outcome, Screen

log = logging.getLogger(__name__)


def tracked(display: Screen, trackers: Mapping[str, Tracker]) -> Screen:
    """The display, telling the trackers too; the display itself if there are none."""
    return _Tracked(display, trackers) if trackers else display


class _Tracked:
    def __init__(self, display: Screen, trackers: Mapping[str, Tracker]) -> None:
        self._display, self._trackers = display, dict(trackers)
        self._known: set[str] = set()

    def decoding(self, done: int, total: int, what: str) -> None:
        self._display.decoding(done, total, what)

    def trial_started(self, planned: PlannedTrial) -> None:
        self._display.trial_started(planned)

    def epoch_done(self, planned: PlannedTrial, epoch: int, epochs: int, row: dict[str, Any]) -> None:
        self._display.epoch_done(planned, epoch, epochs, row)
        key = planned.trial.id
        if key not in self._known:  # not when it starts: a trial that was in the store already starts too
            self._known.add(key)
            config = config_of(planned)
            self._tell(lambda t: t.started(planned, config))
        values = {k: float(v) for k, v in row.items() if k != "epoch" and _finite(v)}
        self._tell(lambda t: t.epoch(key, epoch, values))

    def trial_ended(self, outcome: Outcome) -> None:
        self._display.trial_ended(outcome)
        key = outcome.planned.trial.id
        if key in self._known:
            self._known.discard(key)
            self._tell(lambda t: t.ended(key, outcome.status, _final(outcome)))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception:
                log.warning("Tracker '%s' failed and hears no more; the trials go on.", name, exc_info=True)
                del self._trackers[name]


def config_of(planned: PlannedTrial) -> dict[str, Any]:
    """A trial's specification, flat: `protocol.budget.epochs` -> 30, and `role`, `method`, `kd`."""
    trial = planned.trial
    config: dict[str, Any] = {
        "role": planned.role,
        "method": trial.label,
        "kd": trial.method.kd,
        "trial_id": trial.id,
    }
    for path, value in flat(trial.model_dump(mode="json")):
        if path == "method.teachers":
            continue
        if isinstance(value, list):
            config[path] = ", ".join(map(str, value))
        elif value is not None:
            config[path] = value
    return config


def _final(outcome: Outcome) -> dict[str, float]:
    if outcome.record is None:
        return {}
    from wbcbench.records import frames

    row = frames.flat(outcome.record)
    return {k: float(v) for k, v in row.items() if k.startswith(("test_", "val_", "cost_")) and _finite(v)}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["config_of", "tracked"]
