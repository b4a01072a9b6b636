"""Tell plugins that a trial starts or has finished; what they raise is logged and changes nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pluggy

    from wbcbench.spec import Trial

log = logging.getLogger(__name__)


class Observers:
    """The observer hooks of all loaded plugins, called one by one so that one cannot stop the next."""

    def __init__(self, manager: pluggy.PluginManager | None = None) -> None:
        self._manager = manager

    def trial_started(self, trial: Trial) -> None:
        """Call every `wbcbench_trial_started`."""
        self._notify("wbcbench_trial_started", trial=trial)

    def trial_finished(self, trial: Trial, record: object) -> None:
        """Call every `wbcbench_trial_finished`."""
        self._notify("wbcbench_trial_finished", trial=trial, record=record)

    def _notify(self, hook: str, **values: Any) -> None:
        if self._manager is None:
            return
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                impl.function(*[values[a] for a in impl.argnames])
            except Exception:
                log.warning("Plugin '%s' failed in %s; the trial goes on.", impl.plugin_name, hook, exc_info=True)
