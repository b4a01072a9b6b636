"""All private parts of Ray that wbcbench uses, and why no public part is sufficient.

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
"""Release of Ray that these were tested with."""


def read_settings_again() -> None:
    """Read Ray's variables again: Ray reads some once per process, maybe before this session set them."""
    from ray import _raylet
    from ray._private import ray_constants

    variable, usual = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(variable, usual)  # type: ignore[attr-defined,no-untyped-call]
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


@contextmanager
def silent_raylet() -> Iterator[None]:
    """Keep Ray from printing a node's messages on stdout, which no setting prevents and which breaks `--json`."""
    from ray._private import worker

    module: Any = worker
    before = module.print_to_stdstream
    module.print_to_stdstream = lambda data, *_, **__: log.debug("ray: %s", " ".join(data.get("lines", ())))
    try:
        yield
    finally:
        module.print_to_stdstream = before


def survive_memory_kills() -> None:
    """Retry a trial whose worker was killed by Ray's memory monitor.

    Ray 2.60's Tune treats only `RayActorError` as a dead worker; `OutOfMemoryError` is not a subclass, and ends
    the whole sweep. Both modules look up the name at every failure, so it is replaced by a tuple of both.
    """
    import ray.air.execution._internal.actor_manager as manager
    import ray.tune.execution.tune_controller as controller
    from ray.exceptions import OutOfMemoryError, RayActorError

    modules: tuple[Any, ...] = (manager, controller)
    for module in modules:
        if module.RayActorError is RayActorError:
            module.RayActorError = (RayActorError, OutOfMemoryError)


__all__ = ["TESTED", "read_settings_again", "silent_raylet", "survive_memory_kills"]
