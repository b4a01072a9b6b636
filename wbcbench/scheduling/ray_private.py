"""The private parts of Ray that wbcbench touches: all of them, and why no public part will do.

Tested with Ray 2.60. `pyproject.toml` bounds the version; `tests/scheduling/test_ray_private.py` fails if a newer
Ray lacks one of these names. To raise the bound: install the new Ray, run `pytest tests/scheduling tests/faults`,
and change TESTED and what fails here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("wbcbench")

TESTED = "2.60"
"""Release of Ray that these work with."""


def read_settings_again() -> None:
    """Ray reads some variables once per process: an import or a session before this one had other ones."""
    from ray import _raylet
    from ray._private import ray_constants

    variable, usual = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(variable, usual)  # type: ignore[attr-defined,no-untyped-call]
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


@contextmanager
def silent_raylet() -> Iterator[None]:
    """Ray prints a node's complaints on stdout whatever it is told; there they would spoil `--json`."""
    from ray._private import worker

    module: Any = worker
    before = module.print_to_stdstream
    module.print_to_stdstream = lambda data, *_, **__: log.debug("ray: %s", " ".join(data.get("lines", ())))
    try:
        yield
    finally:
        module.print_to_stdstream = before


def survive_memory_kills() -> None:
    """Let a trial be retried whose worker Ray's memory monitor killed.

    Ray 2.60's Tune takes only `RayActorError` for a dead worker; `OutOfMemoryError` is none, and ends the
    whole sweep. Both modules look the name up at every failure, so it may stand for both.
    """
    import ray.air.execution._internal.actor_manager as manager
    import ray.tune.execution.tune_controller as controller
    from ray.exceptions import OutOfMemoryError, RayActorError

    modules: tuple[Any, ...] = (manager, controller)
    for module in modules:
        if module.RayActorError is RayActorError:
            module.RayActorError = (RayActorError, OutOfMemoryError)


__all__ = ["TESTED", "read_settings_again", "silent_raylet", "survive_memory_kills"]
