"""Chooses one of the two executors for a run, and the cores and GPUs per trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.errors import UsageError
from wbcbench.records.activity import announced
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.ray_executor import RayExecutor
from wbcbench.scheduling.resources import GUESSED_SPEED, check_feasible, estimate, share_of, slots, train_cells
from wbcbench.scheduling.source import Executor, Outcome, Screen, TrialSource, all_cached, in_order
from wbcbench.scheduling.worth import Say, TeacherReports
from wbcbench.spec.request import Request

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import Observers, PluginOptions
    from wbcbench.scheduling.source import Outcome, Screens
    from wbcbench.spec.request import Request


Name = Literal["inline", "ray"]

RAY_START = 15.0
"""Seconds until Ray's workers train: Ray's start, and every worker's imports and data loading."""


def choose(request: Request, plan: Plan, store: Store, times: int = 1) -> Name:
    """The executor for the missing trials of a plan; see `worth_ray` for what `auto` means.

    Args:
        request: the one used for planning.
        plan: what is to be trained.
        store: may contain some of the trials; its records give an estimate of how long trials take.
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
    """Whether a plan as a whole, done or not, runs several trials at a time, with one thread each.

    Depends only on the command and the machine, not on what is already done or how fast it was: a sweep that is
    started again gets the same answer, and so the same number of threads.
    """
    cpus, gpus = machine()
    views = [train_cells(plan, p.trial) * p.trial.protocol.budget.epochs for p in plan.trials]
    again = [v for v, p in zip(views, plan.trials, strict=True) if p.role == "student"] * (times - 1)
    costs: list[tuple[float | None, int]] = [(None, v) for v in (*views, *again)]
    at_once = min(slots(cpus, gpus, share_of(request, gpus)), request.jobs or len(costs))
    return not for_one_process(request.device) and worth_ray(at_once, costs)


def threads_of(request: Request, plan: Plan, times: int = 1) -> int | None:
    """Threads of a trial that runs in this process; None: PyTorch's own choice, all cores.

    One thread if Ray would run the plan, or already did, to get the same numbers.
    """
    given = request.threads or request.cpus_per_trial
    if given is not None or request.executor != "auto":
        return given
    return 1 if request.ray_address or for_several(request, plan, times) else None


def worth_ray(at_once: int, costs: Sequence[tuple[float | None, int]]) -> bool:
    """Whether running several trials at a time is clearly faster than one after another.

    True if the time saved, which is the sum of all trials' seconds x (1 - 1 / concurrent trials), is at least
    twice `RAY_START`. If no similar trial has run, `GUESSED_SPEED` is used.

    Args:
        at_once: how many trials fit.
        costs: for every missing trial, its estimated seconds (or None) and its training cells x epochs.
    """
    at_once = min(at_once, len(costs))
    total = sum(views / GUESSED_SPEED if seconds is None else seconds for seconds, views in costs)
    return at_once > 1 and total * (1 - 1 / at_once) >= 2 * RAY_START


def execute(
    request: Request,
    plan: Plan,
    registry: Registry,
    plugins: PluginOptions,
    source: TrialSource,
    screen: Screen,
    observers: Observers,
    times: int = 1,
) -> list[Outcome]:
    """Run a source's trials with the executor chosen for the plan; see `choose`, `make` and `Executor.run`."""
    name = choose(request, plan, Store(request.root), times)
    if name == "inline" and (threads := threads_of(request, plan, times)) is not None:
        request = request.model_copy(update={"threads": threads})
    return make(name, request, plan, registry, plugins, screen.decoding, screen.say).run(source, screen, observers)


def for_one_process(device: str) -> bool:
    """Whether Ray cannot allocate a device: a GPU selected by its number, or Apple's GPU."""
    return ":" in device or device == "mps"


def machine() -> tuple[int, int]:
    """Cores and GPUs that this process may use, without those hidden by a container or CUDA_VISIBLE_DEVICES."""
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
    say: Say | None = None,
) -> Executor:
    """An executor for the plan's trials, or for any others on the plan's data set.

    Broken data, and components of the plan's missing trials that do not fit together, are detected here.

    Args:
        name: from `choose`.
        request: the one used for planning.
        plan: its data set is used, and its missing trials are rehearsed (it may have none).
        registry: the one used for planning.
        plugins: the options that the registry was made with.
        decoding: called with progress in reading images.
        say: called with a sentence on every teacher from outside.

    Raises:
        UsageError: a trial's share is larger than any node, or the device is not available.
        DataError: the cells cannot be read.
    """
    from wbcbench.scheduling.inline import InlineExecutor, prepare

    if name == "inline":
        return InlineExecutor(prepare(plan, request, registry, decoding, say))
    if for_one_process(request.device):
        raise UsageError(
            f"Expected --device auto, cuda or cpu with --executor ray, but got '{request.device}': Ray assigns "
            f"the GPUs itself. Choose which ones it may use with CUDA_VISIBLE_DEVICES (now "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}), or use --executor inline."
        )
    cpus, gpus = (0, 0) if request.ray_address else machine()
    if not request.ray_address:  # a cluster's nodes are checked after joining it
        check_feasible(share_of(request, gpus), [(cpus, gpus)])
    # The rehearsal only checks shapes: it needs no GPU, and the driver of a cluster may have none.
    prepare(plan, request.model_copy(update={"device": "cpu"}), registry, decoding, say)
    return RayExecutor(request, plan.description.fingerprint, registry, plugins, cpus, gpus)


def examine_students(
    outcomes: Sequence[Outcome],
    plan: Plan,
    request: Request,
    registry: Registry,
    decoding: Callable[[int, int, str], None] | None = None,
    corruptions: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The full evaluation of every student that has a record, in this process; read from disk if already done.

    Args:
        outcomes: of trials on the plan's data set.
        plan: used for its data set only.
        request: for its store and device.
        registry: the one used for planning.
        decoding: called with progress in reading images.
        corruptions: beyond the standard ones, as `name:key=value`.
    """
    from wbcbench.scheduling.inline import prepare
    from wbcbench.training.report import examined

    records = [o.record for o in outcomes if o.record is not None and o.planned.role == "student"]
    if not records:
        return []

    bench = prepare(Plan([], plan.dataset, plan.description), request, registry, decoding)
    return [examined(record, bench, corruptions) for record in records]


Evaluate = Literal["standard", "full"]


def carry_out(
    plan: Plan,
    request: Request,
    registry: Registry,
    plugins: PluginOptions,
    screens: Screens,
    observers: Observers,
    evaluate: Evaluate = "standard",
    corruptions: Sequence[str] = (),
) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """The outcomes of the plan's trials, in its order, and the full evaluation of each student if requested.

    Does not import torch if nothing is left to do.
    """
    outcomes = all_cached(plan, Store(request.root))
    if outcomes is not None and evaluate == "standard":
        return outcomes, []
    with screens(len(plan.trials)) as display:
        if outcomes is None:
            source = TeacherReports(plan, Store(request.root), display.say)
            with announced(Store(request.root), [p.trial.id for p in plan.trials]):
                outcomes = in_order(plan, execute(request, plan, registry, plugins, source, display, observers))
        if evaluate == "standard":
            return outcomes, []
        return outcomes, examine_students(outcomes, plan, request, registry, display.decoding, corruptions)
