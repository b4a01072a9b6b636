"""Ray for the duration of one `with` block: started on this machine, or an existing cluster.

A Ray started here listens on the loopback interface only, keeps its files and its access token in one
short private folder, and leaves neither a folder nor a process behind. A cluster keeps its own
configuration: we only join and leave it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from wbcbench.errors import UsageError
from wbcbench.scheduling import ray_private
from wbcbench.training import allocator

log = logging.getLogger("wbcbench")

PREFIX = "wbcray-"
"""Session folders are named `wbcray-<place>-<pid of the driver>-<random>`."""
ROOM = 40
"""Maximum length of a session folder: Ray appends about 63 characters, and a socket's path may have 107."""
OBJECT_STORE = 100_000_000
"""Bytes. Only specs and losses are sent through Ray; cells and weights go through the store."""

# Read by Ray or Tune when they start: no telemetry, no per-trial loggers, no printed banner, the
# working folder as it is, trials without a GPU share see no GPU, no snapshots of Tune's own state.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_QUIET_LOGGERS = ("ray", "ray.tune", "ray.train", "ray.data")


def running() -> bool:
    """Whether this process is already connected to Ray; does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def session(address: str = "", cpus: int = 1, gpus: int = 0) -> Iterator[None]:
    """Run Ray within the block.

    Args:
        address: `host:port` of a cluster's head, `auto` for one on this machine, empty to start Ray.
        cpus: cores that a Ray started here may assign.
        gpus: GPUs, likewise.

    Raises:
        UsageError: no cluster answers at the address.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment({**_QUIET, **allocator.environment()}))
        stack.enter_context(_silent_loggers())
        if address:
            _join(address)
        else:
            _start(cpus, gpus, stack)
        import ray  # only after its settings are made: some are read at import

        stack.callback(ray.shutdown)
        stack.enter_context(ray_private.silent_raylet())
        yield


def _start(cpus: int, gpus: int, stack: ExitStack) -> None:
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=own_prefix(), dir=short_folder()))
    stack.callback(_remove, folder)
    token = folder / "token"
    with open(token, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(secrets.token_hex(32))
    own = {
        # Ray takes this to mean this machine only, so it binds its ports to the loopback interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    stack.enter_context(_environment(own))
    import ray

    ray_private.read_settings_again()
    ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        object_store_memory=OBJECT_STORE,
        _temp_dir=str(folder),
    )


def _join(address: str) -> None:
    if "://" in address:
        raise UsageError(
            f"Expected --ray-address as host:port of the cluster's head node (or auto), but got '{address}'. "
            "Run wbcbench on a node of the cluster instead of through Ray Client."
        )
    if address != "auto":
        _knock(address)
    import ray

    ray_private.read_settings_again()
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (Exception, SystemExit) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"Expected a running Ray cluster at --ray-address {address}, but could not join it: {reason} "
            "`ray status` on this node shows if one is running; all nodes need the same Ray, Python and token."
        ) from error


def _knock(address: str) -> None:
    """Check that the head answers: Ray itself would wait a minute for a missing one."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UsageError(f"Expected --ray-address as host:port (such as 10.0.0.1:6379) or auto, got '{address}'.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"Expected a running Ray cluster at --ray-address {address}, but nothing answers there ({error}). "
            "Start one with `ray start --head`, or leave the address out to use this machine alone."
        ) from None


def short_folder() -> str:
    """A writable folder for temporary files whose name is short enough for Ray's sockets.

    Raises:
        UsageError: there is no such folder.
    """
    tried = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"])
    room = ROOM - len(f"/{own_prefix()}12345678")
    for folder in tried:
        if len(folder) <= room and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UsageError(
        f"Expected a writable folder for temporary files with a name of at most {room} characters, but found none "
        f"of {', '.join(tried)}. Set TMPDIR to a short one, or use --executor inline."
    )


def own_prefix() -> str:
    """The prefix of this process's session folders."""
    return f"{PREFIX}{_place()}-{os.getpid()}-"


@cache
def _place() -> str:
    """An identifier of the PID namespace of this process: a machine since its last boot, or a container on it.

    Several machines or containers may share a temporary folder, so a pid unknown here may be alive elsewhere.
    """
    told = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            told.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:6]


def sweep() -> None:
    """Remove session folders of dead drivers: a killed driver could not do this itself."""
    for base in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]):
        for folder in Path(base).glob(f"{PREFIX}{_place()}-*-*"):
            pid = folder.name.removeprefix(f"{PREFIX}{_place()}-").partition("-")[0]
            with suppress(OSError):
                if pid.isdigit() and folder.stat().st_uid == os.getuid() and not _alive(int(pid)):
                    _remove(folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(folder: Path) -> None:
    # Ray's last processes may still write to a log while they exit.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent_loggers() -> Iterator[None]:
    """Suppress Ray's own log lines: wbcbench reports what a user needs to know."""
    loggers = [logging.getLogger(name) for name in _QUIET_LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
