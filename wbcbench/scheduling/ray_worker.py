"""What a worker process tells the driver, as one JSON text per message.

Text, because Tune flattens, copies and logs mappings; a text passes through untouched. Imports neither
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
    """One epoch is over and its checkpoint is written."""

    epoch: int
    epochs: int
    row: dict[str, Any]


@dataclass(frozen=True)
class EndMessage:
    """A trial is over; its record, if there is one, is in the store."""

    status: Literal["done", "cached", "failed", "no_memory", "refused"]
    """`no_memory`: the GPU was full. `refused`: what is wrong concerns every trial alike."""
    error: str = ""
    kind: Kind = ""
    """Which class of error it was, for the exit code."""

    def exception(self) -> WbcbenchError | None:
        """An error of the class that the worker met, with its text; None where it was not one of ours."""
        return _CLASSES[self.kind](self.error) if self.kind else None


def kind_of_error(error: BaseException) -> Kind:
    """The class of error that an exit code depends on."""
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
"""Environment variables that begin so travel to the workers: cache, data, plugin folders."""


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to work like the driver. Plain data: it crosses to other machines."""

    request: str
    """The request as JSON."""
    plugins: PluginOptions
    fingerprint: str
    """Of the data set, as the driver found it."""
    threads: int
    device: str
    gpus: float
    """A trial's share; without one, no GPU is seen, however the cluster was started."""
    store: str
    """Absolute path; the same on all nodes."""
    mark: str
    """`Store.mark` as the driver reads it: who reads another one has another disk before it."""
    run: str
    """A name for this run alone."""
    folder: str
    """The driver's working folder, in which relative paths are meant."""
    environment: dict[str, str] = field(default_factory=dict)
    version: str = __version__


def train_one(config: dict[str, Any], setup: WorkerSetup) -> None:
    """Tune's trainable: run one trial and report every epoch, then how it ended.

    Args:
        config: `trial` (its spec as JSON), `id`, and `sources` from `source_digests`.
        setup: the same for all trials of a run.
    """
    from ray import tune

    def done(epoch: int, epochs: int, row: dict[str, Any]) -> None:
        # Waits for the driver's answer; a trial that is to stop is unwound from here by SystemExit.
        tune.report(pack(EpochMessage(epoch, epochs, row)))

    tune.report(pack(_worker(setup).run(config, done)))


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
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)
        from wbcbench.records.store import Store

        store = Store(setup.store)
        if store.mark(make=False) != setup.mark:
            raise UsageError(
                f"Expected the store {store.root} on node {os.uname().nodename}, but what is there "
                "is not the driver's store. Choose a --store on a path that all nodes share."
            )
        import torch

        torch.set_num_threads(setup.threads)
        from wbcbench.scheduling.plan import open_dataset
        from wbcbench.spec.request import Request
        from wbcbench.training.isolation import Settings
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
        self.settings = Settings.current()

    def run(self, config: dict[str, Any], done: Any) -> EndMessage:
        """Run one trial; never raises because of it."""
        from wbcbench.training.isolation import reset
        from wbcbench.training.trial import run_trial

        try:
            trial = Trial.model_validate_json(config["trial"])
            if trial.id != config["id"]:
                raise UsageError(
                    f"Expected trial {config['id']}, but its spec reads as {trial.id} here. "
                    "Install one version of wbcbench on all nodes."
                )
            check_sources(trial, self.registry, config["sources"])
            reset(self.settings, trial.seed)
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
    """Stands for a worker that could not be set up: every trial gets the same answer."""

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
            return _Refused(EndMessage("no_memory", str(error)))  # not kept: the next try may find room
    return _known[setup.run]


def gpu_is_full(error: Exception) -> bool:
    """Whether a GPU had no memory left, in any of the ways in which PyTorch says so.

    The allocator has an error of its own; a context, cuBLAS and cuDNN that find no room raise plain ones.
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

    The files' digests are those of the moment when the registry was made, their helpers' of the first look.
    """
    found = {}
    for kind, name in _components(trial):
        component = registry.get(kind, name)
        found[f"{kind} {name}"] = f"{component.sha256} {cached_helper_digest(component)}"
    return found


def check_sources(trial: Trial, registry: Registry, expected: dict[str, str]) -> None:
    """Raises `SourceChangedError` where this process has other code than the driver planned with.

    The files are read again: a component is imported when it is first used, which may be long after its
    file was found.
    """
    for kind, name in _components(trial):
        component = registry.get(kind, name)
        path = source_file(component.target) if isinstance(component.target, str) else None
        there = hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else component.sha256
        planned, _, beside = expected.get(f"{kind} {name}", "").partition(" ")
        if not planned == component.sha256 == there or beside != helper_digest(component):
            found = there[:12] or "no file" if planned != there else "another helper beside it"
            raise SourceChangedError(
                f"Expected {kind} '{name}' as it was when this run was planned (SHA-256 "
                f"{planned[:12] or 'unknown'}), but a worker found {found} in "
                f"{component.origin}. Leave plugin files alone while a run goes on, and have the same ones on "
                "all nodes; then start it again: what is done stays done."
            )


def _components(trial: Trial) -> Iterator[tuple[str, str]]:
    yield from components_of(trial)
    for teacher in trial.method.teachers:
        yield from _components(teacher)


def _free() -> None:
    """Give GPU memory back: another trial of the same GPU may need it while this process waits."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
