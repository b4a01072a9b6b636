"""The training loop, top to bottom.

    for each epoch: draw cells -> assemble -> views -> forward -> task and distillation terms -> step(s)
                    validate -> keep the best -> checkpoint

Nothing is read back from the device within an epoch. The test split is not used in this file.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wbcbench.contracts import (
    Backbone,
    Batch,
    ChangesGradients,
    DoesBackward,
    Draw,
    DrawsSlots,
    Evaluated,
    ForwardsAgain,
    Fusion,
    Outputs,
    PerCell,
    Policy,
    Progress,
    ReadsValidation,
    StepsInTurn,
)
from wbcbench.data.counter import derive_seed
from wbcbench.data.views import EpochDraws, ResidentCells, Views, draw_batch, epoch_order, fill_images
from wbcbench.errors import TrialFailedError
from wbcbench.evaluation.predict import Predictions, forward_all, predictions_of
from wbcbench.spec import Recipe, Trial
from wbcbench.training.distillation import Distillation
from wbcbench.training.features import kept_features, with_features
from wbcbench.training.frozen import Embedded
from wbcbench.training.state import TrainState, Weights, snapshot
from wbcbench.training.strength import COLUMN, gradient_ratios, measured_epochs
from wbcbench.training.supervision import task_loss, total, with_labels
from wbcbench.training.teachers import TeacherBank, twice_differentiable

RATE_FACTOR = "rate_factor"
"""Key of a parameter group: the factor on its learning rate."""


def make_optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum; no weight decay on biases, norms and other vectors.

    Backbones may declare factors on the rates of their parameters.
    """
    factors = {id(p): f for m in module.modules() if isinstance(m, Backbone) for p, f in m.rate_factors()}
    alike: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for p in module.parameters():
        if p.requires_grad:
            alike.setdefault((p.ndim <= 1, factors.get(id(p), 1.0)), []).append(p)
    groups = [
        {"params": params, "weight_decay": 0.0 if vector else recipe.weight_decay, RATE_FACTOR: factor}
        for (vector, factor), params in sorted(alike.items(), key=lambda item: item[0])
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Linear warm-up from 0, then cosine to 0 at the last step. `step` counts from 0 over all epochs."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = steps_per_epoch * epochs
    if warmup > 0:
        # A budget shorter than the warm-up still reaches the peak, halfway through.
        warmup = min(warmup, total / 2)
        if step < warmup:
            return recipe.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, total - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group[RATE_FACTOR]


def class_weights(counts: torch.Tensor, how: str) -> torch.Tensor:
    """[K] weight of each class in the task loss, mean 1 over training cells. `counts`: [K]."""
    n = counts.clamp(min=1).double()
    raw = {"none": torch.ones_like(n), "sqrt": n.rsqrt(), "inverse": 1 / n}[how]
    mean = (raw * counts).sum() / counts.sum()
    return (raw / mean).float()


EpochDone = Callable[[int, int, dict[str, Any]], None]
"""Called as `done(epoch, epochs, row of history)`; a resumed trial reports its earlier epochs again."""


@dataclass
class Job:
    """All that one training needs."""

    trial: Trial
    cells: ResidentCells
    views: Views
    train: Tensor
    """[n] cell ids on the device, ascending."""
    val: Tensor
    fusion: Fusion
    policies: list[Policy] = field(default_factory=list)
    distillation: Distillation | None = None
    bank: TeacherBank | None = None
    maps: bool = False
    """Whether a distiller or a policy reads the student's stage maps."""
    inputs: bool = False
    """Whether a distiller differentiates in the student's images."""
    score: Callable[[Predictions], dict[str, float | None]] = lambda _: {}
    """Validation predictions -> summary metrics; the selection metric is one of them."""
    checkpoints: Path | None = None
    embedded: Embedded | None = None
    """What it trains on instead of images, if its networks are frozen."""
    views_per_cell: int = 0
    """After so many epochs the views repeat; 0: never."""
    code: str = ""
    """Digest of the components' code: a checkpoint of other code is not resumed."""

    @property
    def stamp(self) -> str:
        """Identifies the checkpoints that this job may resume."""
        return f"{self.trial.id}/{self.code}"

    def shown(self, epoch: int) -> int:
        """The epoch whose views are shown."""
        return epoch % self.views_per_cell if self.views_per_cell else epoch

    @property
    def readers(self) -> list[ReadsValidation]:
        """What learns from validation cells."""
        routings = () if self.distillation is None else self.distillation.routings.values()
        return [r for r in (*self.policies, *routings) if isinstance(r, ReadsValidation)]

    @property
    def stored_epochs(self) -> int:
        """Of how many epochs there are different views."""
        return min(self.views_per_cell or sys.maxsize, self.trial.protocol.budget.epochs)

    def reading(self) -> AbstractContextManager[None]:
        """The context in which the fusion is given what the job trains on."""
        return nullcontext() if self.embedded is None else self.embedded.reading()

    @property
    def device(self) -> torch.device:
        return self.cells.device


def fit(job: Job, done: EpochDone | None = None) -> TrainState:
    """Train until the budget is spent; resumes from the last complete epoch. Returns the final state.

    Raises:
        TrialFailedError: the loss is no longer a number.
    """
    recipe, budget = job.trial.method.recipe, job.trial.protocol.budget
    for policy in job.policies:
        if isinstance(policy, PerCell):
            policy.setup_cells(int(job.train.max()) + 1)
    job.fusion.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    modules = torch.nn.ModuleDict({"fusion": job.fusion})
    modules["policies"] = torch.nn.ModuleList(job.policies)
    if job.distillation is not None:
        modules["distillation"] = job.distillation
    modules.to(job.device)
    state = TrainState(modules, make_optimiser(modules, recipe), ema=recipe.ema)
    if job.checkpoints is not None:
        state.resume(job.checkpoints, job.stamp)
    if done is not None:
        for row in state.history:  # the caller may not have seen them
            done(int(row["epoch"]), budget.epochs, row)

    counts = torch.bincount(job.cells.labels[job.train], minlength=len(job.cells.classes))
    weights = class_weights(counts.cpu(), recipe.class_weighting).to(job.device)

    while state.epoch < budget.epochs:
        epoch = state.epoch
        if job.bank is not None:
            state.teacher_seconds += job.bank.start_epoch(job.shown(epoch))
        started = time.perf_counter()
        with job.reading():
            sums = train_epoch(job, state, weights, epoch)
        state.train_seconds += time.perf_counter() - started

        selected, metrics, predictions, validation = judge(job, state)
        score = selection_score(job.trial.protocol.selection.metric, metrics, epoch)
        if state.consider(score, selected):
            state.best_predictions = predictions
        row = {"epoch": epoch, **sums, **{f"val_{k}": v for k, v in metrics.items()}}
        state.history.append(row)
        state.epoch += 1
        for policy in job.policies:
            policy.on_epoch(job.fusion, Progress(epoch, budget.epochs, 0, 1), predictions.losses())
        for reader in job.readers:
            ended = Progress(epoch, budget.epochs, 0, 1)
            reader.after_validation(job.fusion, validation, lambda: evaluate(job, state, job.train)[0], ended)
        if job.checkpoints is not None:
            state.save(job.checkpoints, job.stamp)
        if done is not None:
            done(epoch, budget.epochs, row)
    return state


def train_epoch(job: Job, state: TrainState, weights: Tensor, epoch: int) -> dict[str, float]:
    """One pass over the training cells; returns the mean of every loss term and the last rate."""
    trial, fusion, device = job.trial, job.fusion, job.device
    recipe, budget = trial.method.recipe, trial.protocol.budget
    reads = trial.reads
    kd = job.distillation
    views = (job.views if job.embedded is None else job.embedded.train).epoch(job.shown(epoch))
    order = epoch_order(job.train, budget.batch_size, trial.seed, epoch)
    draws = EpochDraws(trial.seed, epoch, len(order), device)
    slots = fusion.slots(order, draws.epoch()) if isinstance(fusion, DrawsSlots) else None
    turns = next((p.turns for p in job.policies if isinstance(p, StepsInTurn)), ("",))
    measures = kd is not None and epoch in measured_epochs(budget.epochs, len(order))
    ratios: dict[str, Tensor] = {}
    torch.manual_seed(derive_seed(trial.seed, "epoch", epoch))  # dropout and the like
    state.modules.train()

    sums: dict[str, Tensor] = {}
    rate = 0.0
    for step, ids in enumerate(order):
        rate = learning_rate(recipe, epoch * len(order) + step, len(order), budget.epochs)
        set_learning_rate(state.optimiser, rate)
        draw = draws.step(step)
        progress = Progress(epoch, budget.epochs, step, len(order), draw)

        batch = assemble(job, ids, draw, None if slots is None else {m: slots[m][step] for m in reads})
        fill_images(batch, views, reads)
        for policy in job.policies:
            batch = policy.images(batch, draw)
        for turn in turns:
            now = losses(job, batch, weights, progress)
            if kd is not None and measures and step == len(order) // 2 and turn == turns[0]:
                ratios = gradient_ratios(fusion, now.task_loss, kd.by_distiller(now.kd))
            take_step(job, state, now, batch, progress, turn)
            for name, value in now.named().items() if turn == turns[0] else ():
                value = value.detach()
                sums[name] = sums[name] + value if name in sums else value
        state.update_average()
        if kd is not None:
            kd.after_step(fusion)
    means = {name: value / len(order) for name, value in sums.items()}
    found = torch.stack([*means.values(), *(r.to(device) for r in ratios.values())])
    values = found.tolist()  # the only read from the device per epoch
    result = dict(zip(means, values, strict=False))
    bad = [name for name, value in result.items() if not math.isfinite(value)]
    if bad:
        raise diverged(job, epoch, ", ".join(bad))
    shown = zip(ratios, values[len(means) :], strict=True)
    return {"lr": rate, **result, **{COLUMN + name: r for name, r in shown if math.isfinite(r)}}


@dataclass
class Losses:
    """The losses of a step at the current weights, and the outputs that they are of."""

    outputs: Outputs
    task: dict[str, Tensor]
    """Scalar terms, before the recipe's weight."""
    kd: dict[str, Tensor]
    task_weight: float

    @property
    def task_loss(self) -> Tensor:
        return total(self.task) * self.task_weight

    @property
    def kd_loss(self) -> Tensor:
        return total(self.kd) if self.kd else torch.zeros((), device=next(iter(self.task.values())).device)

    def named(self) -> dict[str, Tensor]:
        """As in a history."""
        task = {f"task.{k}": v for k, v in self.task.items()}
        return {"loss": self.task_loss + self.kd_loss, **task, **self.kd}


def losses(job: Job, batch: Batch, weights: Tensor, progress: Progress) -> Losses:
    """Show the batch to the networks, and compute the terms of the task and of distillation."""
    fusion, kd, recipe = job.fusion, job.distillation, job.trial.method.recipe
    if job.inputs:
        batch.images = {m: x.detach().requires_grad_() for m, x in batch.images.items()}
    run = partial(forward, job, batch)
    first = partial(run, batch.images, batch.present, job.maps)
    outputs = with_features(fusion, job.policies, first, batch, progress)
    for policy in job.policies:
        if isinstance(policy, ForwardsAgain):
            policy.after_forward(run, outputs, batch, progress)
    task = task_loss(fusion, job.policies, outputs, batch, weights, progress)
    found = Losses(outputs, task, {}, recipe.task_weight)
    if kd is not None:
        averaged: Outputs = {}
        if kd.average is not None:
            averaged = with_labels(kd.average(batch.images, batch.present), batch)
        if kd.balanced and progress.epoch == progress.step == 0:
            ended = replace(progress, epoch=progress.epochs)
            kd.balance(fusion, found.task_loss, partial(kd.terms, outputs, job.bank, batch, ended, averaged))
        found.kd = kd.terms(outputs, job.bank, batch, progress, averaged)
    return found


def take_step(job: Job, state: TrainState, now: Losses, batch: Batch, progress: Progress, turn: str = "") -> None:
    """Backward pass and optimiser step, of the losses of a turn where a policy steps in turn."""
    fusion, kd, recipe = job.fusion, job.distillation, job.trial.method.recipe
    state.optimiser.zero_grad(set_to_none=True)
    if kd is not None and kd.stepper is not None:
        kd.stepper.optimise(state.optimiser, now.task_loss, now.kd_loss)
        return
    weighted = {k: v * recipe.task_weight for k, v in now.task.items()}
    doing = (p for p in job.policies if isinstance(p, DoesBackward))
    stepping = [p for p in job.policies if isinstance(p, StepsInTurn)]
    if stepping:
        total(stepping[0].of_turn(turn, {**weighted, **now.kd})).backward()  # type: ignore[no-untyped-call]
    elif not any(policy.backward(weighted, now.kd_loss, fusion) for policy in doing):
        (now.task_loss + now.kd_loss).backward()  # type: ignore[no-untyped-call]
    for policy in job.policies:
        if isinstance(policy, ChangesGradients):
            policy.after_backward(fusion, now.outputs, batch, progress)
    if recipe.clip:
        params = [p for group in state.optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(params, recipe.clip)
    state.optimiser.step()


def forward(
    job: Job, batch: Batch, images: dict[str, Tensor], present: Tensor | None, maps: bool = False
) -> Outputs:
    """The fusion's outputs in the recipe's precision, with the labels of the batch."""
    with autocast(job.device, job.trial.method.recipe.precision), twice_differentiable(job.inputs):
        outputs = job.fusion(images, present, maps)
    return with_labels(outputs, replace(batch, images=images, present=present))


def assemble(job: Job, ids: Tensor, draw: Draw, slots: Mapping[str, Tensor] | None = None) -> Batch:
    """Draw the batch and let the fusion, then the policies, decide which cell each modality shows.

    Args:
        job: the training.
        ids: of the step's cells.
        draw: random numbers of the step.
        slots: modality -> ids that its rows show, where the fusion has drawn them for the whole epoch.
    """
    reads = job.trial.reads
    if slots is None:
        batch = draw_batch(job.cells, ids, reads)
    else:
        batch = draw_batch(job.cells, torch.cat([slots[m] for m in reads]), reads)
        rows = torch.split(torch.arange(len(batch.cells), device=ids.device), [len(slots[m]) for m in reads])
        batch.rows = dict(zip(reads, rows, strict=True))
    batch = job.fusion.assemble(batch, draw)
    for policy in job.policies:
        batch = policy.assemble(batch, draw)
    if batch.rows is not None and batch.present is not None and len(batch.present) == len(batch.cells):
        columns = [batch.present[batch.rows[m], i] for i, m in enumerate(reads)]
        batch.present = torch.stack(columns, 1)
    return batch


def judge(job: Job, state: TrainState) -> tuple[Weights, dict[str, float | None], Predictions, Evaluated]:
    """Validate the weights that would be kept (the average, if there is one); returns them, and what was found."""
    validation, probabilities = evaluate(job, state, job.val)
    predictions = predictions_of(validation.outputs, probabilities, job.cells, job.val)
    if not np.isfinite(predictions.probabilities).all():
        raise diverged(job, state.epoch, "a validation prediction")
    return state.average or job.fusion.state_dict(), job.score(predictions), predictions, validation


def evaluate(job: Job, state: TrainState, ids: Tensor) -> tuple[Evaluated, Tensor]:
    """What the weights that would be kept make of these cells [n], unaugmented, and the probabilities [n, K]."""
    fusion = job.fusion
    current = snapshot(fusion) if state.average is not None else {}
    if state.average is not None:
        fusion.load_state_dict(state.average)
    keeping: AbstractContextManager[dict[str, Tensor]] = kept_features(fusion) if job.readers else nullcontext({})
    with job.reading(), keeping as features:
        outputs, probabilities = forward_all(fusion, job.embedded or job.cells, ids, job.trial.reads)
    if state.average is not None:
        fusion.load_state_dict(current)
    outputs = {r: replace(out, labels=job.cells.labels[ids], index=ids) for r, out in outputs.items()}
    return Evaluated(outputs, features), probabilities


def diverged(job: Job, epoch: int, what: str) -> TrialFailedError:
    """The error of a training that has diverged, with what usually helps."""
    return TrialFailedError(
        f"Epoch {epoch + 1}: {what} is no longer a finite number. Try a lower learning rate "
        f"(now {job.trial.method.recipe.lr:g}), training.clip=1, or a lower distiller weight."
    )


def autocast(device: torch.device, precision: str) -> Any:
    """bfloat16 autocast if requested; `auto` means on a GPU that computes in it natively."""
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "bfloat16" or (precision == "auto" and native):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def selection_score(metric: str, metrics: dict[str, float | None], epoch: int) -> float:
    """The number by which an epoch is chosen; higher is better."""
    if metric == "last":
        return float(epoch)
    value = metrics[metric]
    assert value is not None  # only AUROC can be undefined, and nothing is selected by it
    return -value if metric == "nll" else value
