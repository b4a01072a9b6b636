"""Which of the two executors a run gets, and how many cores and GPUs a trial is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.ray_executor import RayExecutor
from wbcbench.scheduling.resources import GUESSED_SPEED, check_feasible, estimate, share_of, slots, train_cells
from wbcbench.scheduling.source import Executor, Outcome, Screen, Source
from wbcbench.spec.request import Request

Name = Literal["inline", "ray"]

RAY_START = 15.0
"""Seconds until Ray's workers train: its own start, and every worker's imports and data."""


def choose(request: Request, plan: Plan, store: Store, times: int = 1) -> Name:
    """The executor for what is missing of a plan; see `worth_ray` for what `auto` means.

    Args:
        request: as planned with.
        plan: what is to be trained.
        store: in which some of it may be done, and earlier runs tell how long such trials take.
        times: how many trials like each of the plan's students there will be: a search's proposals.
    """
    if request.executor != "auto":
        return request.executor
    if not request.ray_address and not for_several(request, plan, times):
        return "inline"
    missing = []
    for row in estimate(plan, store):
        if times > 1 and row["role"] == "student":
            missing += [row] * times
        elif not row["done"]:
            missing.append(row)
    if len(missing) < 2:
        return "inline"
    if request.ray_address:
        return "ray"
    if for_one_process(request.device):
        return "inline"
    cpus, gpus = machine()
    at_once = min(slots(cpus, gpus, share_of(request, gpus)), request.jobs or len(missing))
    costs = [(row["estimated_seconds"], row["cell_views"]) for row in missing]
    return "ray" if worth_ray(at_once, costs) else "inline"


def for_several(request: Request, plan: Plan, times: int = 1) -> bool:
    """Whether a plan as a whole, done or not, is one for several trials at once, with one thread each.

    A function of the command and the machine alone: a sweep that is started again finds the same answer, whatever
    is done by then and however fast it was, and so the same number of threads.
    """
    cpus, gpus = machine()
    views = [train_cells(plan, p.trial) * p.trial.protocol.budget.epochs for p in plan.trials]
    again = [v for v, p in zip(views, plan.trials, strict=True) if p.role == "student"] * (times - 1)
    costs: list[tuple[float | None, int]] = [(None, v) for v in (*views, *again)]
    at_once = min(slots(cpus, gpus, share_of(request, gpus)), request.jobs or len(costs))
    return not for_one_process(request.device) and worth_ray(at_once, costs)


def threads_of(request: Request, plan: Plan, times: int = 1) -> int | None:
    """Threads of a trial that runs in this process; None: PyTorch's own choice, all cores.

    Where Ray would run the plan, or did so before, one: as there.
    """
    given = request.threads or request.cpus_per_trial
    if given is not None or request.executor != "auto":
        return given
    return 1 if request.ray_address or for_several(request, plan, times) else None


def worth_ray(at_once: int, costs: Sequence[tuple[float | None, int]]) -> bool:
    """Whether several trials at once end sooner, by a clear margin, than one after another.

    True if the sum of all trials' seconds x (1 - 1 / trials at once), which is what running them at once
    saves, is at least twice `RAY_START`. A trial like which none has run is judged by `GUESSED_SPEED`.

    Args:
        at_once: how many trials fit.
        costs: of every missing trial its estimated seconds, or None, and its training cells x epochs.
    """
    at_once = min(at_once, len(costs))
    total = sum(views / GUESSED_SPEED if seconds is None else seconds for seconds, views in costs)
    return at_once > 1 and total * (1 - 1 / at_once) >= 2 * RAY_START


def execute(
    request: Request,
    plan: Plan,
    registry: Registry,
    plugins: PluginOptions,
    source: Source,
    screen: Screen,
    observers: Observers,
    times: int = 1,
) -> list[Outcome]:
    """Run a source's trials with the executor that suits the plan; see `choose`, `make` and `Executor.run`."""
    name = choose(request, plan, Store(request.root), times)
    if name == "inline" and (threads := threads_of(request, plan, times)) is not None:
        request = request.model_copy(update={"threads": threads})
    return make(name, request, plan, registry, plugins, screen.decoding).run(source, screen, observers)


def for_one_process(device: str) -> bool:
    """Whether a device cannot be shared out by Ray: a GPU chosen by its number, and Apple's."""
    return ":" in device or device == "mps"


def machine() -> tuple[int, int]:
    """Cores and GPUs that this process may use: what a container or CUDA_VISIBLE_DEVICES hides is not counted."""
    import torch
    from joblib import cpu_count

    return int(cpu_count()), torch.cuda.device_count()


def make(
    name: Name,
    request: Request,
    plan: Plan,
    registry: Registry,
    plugins: PluginOptions,
    decoding: Callable[[int, int, str], None] | None = None,
) -> Executor:
    """An executor for the plan's trials, or for any others on the plan's data set.

    What is broken in the data, or in how the plan's missing trials fit together, is met here.

    Args:
        name: from `choose`.
        request: as planned with.
        plan: its data set is used, and its missing trials are rehearsed (it may have none).
        registry: as planned with.
        plugins: from which the registry was made.
        decoding: is told of progress in reading images.

    Raises:
        UsageError: a trial's share can never be given, or the device is not there.
        DataError: the cells cannot be read.
    """
    from wbcbench.scheduling.inline import InlineExecutor, prepare

    if name == "inline":
        return InlineExecutor(prepare(plan, request, registry, decoding))
    if for_one_process(request.device):
        raise UsageError(
            f"Expected --device auto, cuda or cpu with --executor ray, but got '{request.device}': Ray gives out "
            f"the GPUs itself. Choose which ones it has by CUDA_VISIBLE_DEVICES (now "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}), or use --executor inline."
        )
    cpus, gpus = (0, 0) if request.ray_address else machine()
    if not request.ray_address:  # a cluster's nodes are asked once it is joined
        check_feasible(share_of(request, gpus), [(cpus, gpus)])
    # The rehearsal is of shapes: it needs no GPU, and the driver of a cluster may have none.
    prepare(plan, request.model_copy(update={"device": "cpu"}), registry, decoding)
    return RayExecutor(request, plan.description.fingerprint, registry, plugins, cpus, gpus)
