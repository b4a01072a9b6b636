"""The worker process, and its messages to the driver as JSON text.

Text, because Tune flattens, copies and logs mappings, but does not change a string. Imports neither
torch nor ray.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wbcbench import __version__
from wbcbench.errors import DataError, LeakError, PluginError, UsageError, WbcbenchError
from wbcbench.registry import Registry
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.registry.provenance import cached_helper_digest, components_of, helper_digest, source_file
from wbcbench.spec import Trial

KEY = "wbcbench"
"""The one key of a reported result."""

Kind = Literal["", "leak", "data", "plugin", "usage", "other"]
_CLASSES: dict[str, type[WbcbenchError]] = {
    "leak": LeakError, "data": DataError, "plugin": PluginError, "usage": UsageError, "other": WbcbenchError,
}  # fmt: skip


@dataclass(frozen=True)
class EpochMessage:
    """An epoch has ended and its checkpoint is written."""

    epoch: int
    epochs: int
    row: dict[str, Any]


@dataclass(frozen=True)
class EndMessage:
    """A trial has ended; its record, if there is one, is in the store."""

    status: Literal["done", "cached", "failed", "no_memory", "refused"]
    """`no_memory`: the GPU's memory was full. `refused`: an error that affects every trial."""
    error: str = ""
    kind: Kind = ""
    """The class of error, for the exit code."""

    def exception(self) -> WbcbenchError | None:
        """The worker's error, with its class and text; None if it was not a `WbcbenchError`."""
        return _CLASSES[self.kind](self.error) if self.kind else None


def kind_of_error(error: BaseException) -> Kind:
    """The class of error that determines the exit code."""
    if isinstance(error, LeakError):
        return "leak"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, PluginError):
        return "plugin"
    if isinstance(error, UsageError):
        return "usage"
    return "other" if isinstance(error, WbcbenchError) else ""


def pack(message: EpochMessage | EndMessage) -> dict[str, str]:
    """The result to report."""
    name = "epoch" if isinstance(message, EpochMessage) else "end"
    return {KEY: json.dumps({name: asdict(message)})}


def unpack(result: dict[str, Any] | None) -> EpochMessage | EndMessage | None:
    """The message in a result, or None if there is none."""
    if not result or not isinstance(result.get(KEY), str):
        return None
    tree = json.loads(result[KEY])
    return EpochMessage(**tree["epoch"]) if "epoch" in tree else EndMessage(**tree["end"])


VARIABLES = "WBCBENCH_"
"""Environment variables with this prefix are passed to the workers: cache, data, plugin folders."""

STOPPING = "600"
"""Seconds for a stopped trial's thread to end before its worker is reused. Tune waits for 2, which a busy machine
exceeds, and then drops the trial that should have come next, without a word."""


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker needs to work like the driver. Plain data: it is sent to other machines."""

    request: str
    """The request as JSON."""
    plugins: PluginOptions
    fingerprint: str
    """Of the data set, as computed by the driver."""
    threads: int
    device: str
    gpus: float
    """A trial's share; without one, GPUs are hidden, however the cluster was started."""
    store: str
    """Absolute path; the same on all nodes."""
    mark: str
    """`Store.mark` as read by the driver: a worker that reads another value sees another disk."""
    run: str
    """A unique name of this run."""
    folder: str
    """The driver's working folder, to which relative paths refer."""
    environment: dict[str, str] = field(default_factory=dict)
    version: str = __version__


def train_one(config: dict[str, Any], setup: WorkerSetup) -> None:
    """Tune's trainable: run one trial, report every epoch, then its outcome.

    Args:
        config: `trial` (its spec as JSON), `id`, and `sources` from `source_digests`.
        setup: the same for all trials of a run.
    """
    from ray import tune

    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = STOPPING

    def done(epoch: int, epochs: int, row: dict[str, Any]) -> None:
        # Waits for the driver's answer; a trial that is to stop gets a SystemExit here.
        try:
            tune.report(pack(EpochMessage(epoch, epochs, row)))
        except SystemExit as stop:
            raise Stopped from stop  # so that it is not mistaken for a plugin's SystemExit

    try:
        message = _worker(setup).run(config, done)
    except Stopped:
        raise SystemExit(0) from None
    tune.report(pack(message))


class Stopped(BaseException):
    """Tune ends the trial."""


class Worker:
    """One process's workbench, kept from trial to trial."""

    def __init__(self, setup: WorkerSetup) -> None:
        if setup.version != __version__:
            raise UsageError(
                f"Expected wbcbench {setup.version}, which the driver has, but this worker has {__version__}. "
                "Install one version on all nodes."
            )
        os.environ.update(setup.environment)
        if not setup.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch reads it
        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)
        from wbcbench.records.store import Store

        store = Store(setup.store)
        if store.mark(make=False) != setup.mark:
            raise UsageError(
                f"Expected the store {store.root} on node {os.uname().nodename}, but that folder "
                "is not the driver's store. Choose a --store on a path that all nodes share."
            )
        import torch

        torch.set_num_threads(setup.threads)
        from wbcbench.isolation import TorchSettings
        from wbcbench.scheduling.plan import open_dataset
        from wbcbench.spec.request import Request
        from wbcbench.training.workbench import Workbench, pick_device

        request = Request.model_validate_json(setup.request)
        self.registry = load_plugins(setup.plugins)[0]
        self.bench = Workbench(
            store,
            self.registry,
            pick_device(setup.device),
            replay=request.replay == "auto",
            replay_maps_gb=request.replay_maps_gb,
        )
        self.bench.add_dataset(setup.fingerprint, open_dataset(request, self.registry)[1])
        self.settings = TorchSettings.current()

    def run(self, config: dict[str, Any], done: Any) -> EndMessage:
        """Run one trial; never raises because of it."""
        from wbcbench.data.counter import derive_seed
        from wbcbench.isolation import contained, reset
        from wbcbench.training.trial import run_trial

        try:
            trial = Trial.model_validate_json(config["trial"])
            if trial.id != config["id"]:
                raise UsageError(
                    f"Expected trial {config['id']}, but its spec reads as {trial.id} here. "
                    "Install one version of wbcbench on all nodes."
                )
            check_sources(trial, self.registry, config["sources"])
            with contained():
                reset(self.settings, derive_seed(trial.seed, "slate"))
                _, cached = run_trial(trial, self.bench, done)
            return EndMessage("cached" if cached else "done")
        except (DataError, SourceChangedError) as error:
            return EndMessage("refused", str(error), kind_of_error(error))
        except Exception as error:
            if gpu_is_full(error):
                return EndMessage("no_memory", str(error))
            text = str(error) if isinstance(error, WbcbenchError) else traceback.format_exc()
            return EndMessage("failed", text, kind_of_error(error))
        finally:
            _free()


class SourceChangedError(PluginError):
    """A plugin's file is not what it was when the trials were planned."""


class _Refused:
    """Replaces a worker that could not be set up: every trial gets the same answer."""

    def __init__(self, message: EndMessage) -> None:
        self.message = message

    def run(self, config: dict[str, Any], done: Any) -> EndMessage:
        return self.message


_known: dict[str, Worker | _Refused] = {}


def _worker(setup: WorkerSetup) -> Worker | _Refused:
    if setup.run not in _known:
        _known.clear()
        try:
            _known[setup.run] = Worker(setup)
        except WbcbenchError as error:
            _known[setup.run] = _Refused(EndMessage("refused", str(error), kind_of_error(error)))
        except Exception as error:
            if not gpu_is_full(error):
                raise
            return _Refused(EndMessage("no_memory", str(error)))  # not cached: the next attempt may succeed
    return _known[setup.run]


def gpu_is_full(error: Exception) -> bool:
    """Whether an error means that a GPU ran out of memory.

    The allocator has its own class of error; a context, cuBLAS and cuDNN raise plain errors.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        said in text
        for said in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    )


def source_digests(trial: Trial, registry: Registry) -> dict[str, str]:
    """Every component of the trial and its teachers, `kind name`, and the digest of its code.

    The files' digests are from when the registry was made, those of their helpers from when they were first read.
    """
    found = {}
    for kind, name in _components(trial):
        component = registry.get(kind, name)
        found[f"{kind} {name}"] = f"{component.sha256} {cached_helper_digest(component)}"
    return found


def check_sources(trial: Trial, registry: Registry, expected: dict[str, str]) -> None:
    """Raises `SourceChangedError` if this process has other code than the driver used for planning.

    The files are read again, because a component is imported when it is first used, which may be long after
    its file was found.
    """
    for kind, name in _components(trial):
        component = registry.get(kind, name)
        path = source_file(component.target) if isinstance(component.target, str) else None
        there = hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else component.sha256
        planned, _, beside = expected.get(f"{kind} {name}", "").partition(" ")
        if not planned == component.sha256 == there or beside != helper_digest(component):
            found = there[:12] or "no file" if planned != there else "another helper file"
            raise SourceChangedError(
                f"Expected {kind} '{name}' as it was when this run was planned (SHA-256 "
                f"{planned[:12] or 'unknown'}), but a worker found {found} in "
                f"{component.origin}. Do not edit plugin files during a run, and use the same ones on all "
                "nodes; then run it again to resume."
            )


def _components(trial: Trial) -> Iterator[tuple[str, str]]:
    yield from components_of(trial)
    for teacher in trial.method.teachers:
        yield from _components(teacher)


def _free() -> None:
    """Release GPU memory: another trial on the same GPU may need it while this process waits."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
