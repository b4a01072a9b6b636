"""Checks that networks can be built, and that distillers can read them, before anything is trained."""

from __future__ import annotations

import logging

import torch

from wbcbench.contracts import Batch, Fusion, Outputs, PerCell, Task
from wbcbench.data.views import EpochDraws
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.evaluation.cost import macs_or_why
from wbcbench.registry import Registry
from wbcbench.spec import Trial
from wbcbench.training.build import build_fusion, build_policies
from wbcbench.training.teachers import teacher_output
from wbcbench.training.wiring import reads_measured, shapes_of, wire, with_replaced_heads

log = logging.getLogger("wbcbench")


def construct(trial: Trial, channels: dict[str, int], classes: tuple[str, ...], registry: Registry) -> None:
    """Build the network of a trial, count its operations and discard it.

    This finds stages, widths and layers that its parts lack, before anything is trained.

    Args:
        trial: of any method; its policies and distillers are not checked.
        channels: of every modality that it reads.
        classes: their names.
        registry: of the trial's components.

    Raises:
        IncompatibleError: names the method and its backbone, and states what does not fit. Other
            exceptions are only logged; they will fail the trial itself.
    """
    try:
        fusion = build_fusion(trial, _task(trial, channels, classes), registry)
    except UsageError as error:
        model = trial.method.backbone.params.get("model", trial.method.backbone.name)
        raise IncompatibleError(f"{trial.label} with backbone {model}: {error}") from error
    except Exception:
        log.debug("%s could not be built", trial.label, exc_info=True)
        return
    if why := macs_or_why(fusion.deploy(), blank(fusion.task, 1))[1]:
        log.warning("%s: %s. It is trained, and its MACs stay blank.", trial.label, why)


def blank(task: Task, cells: int) -> dict[str, torch.Tensor]:
    """Images of zeros, the training mean, of every modality: [cells, C, S, S]."""
    size = task.image_size
    return {m: torch.zeros(cells, c, size, size) for m, c in task.channels.items()}


def _task(trial: Trial, channels: dict[str, int], classes: tuple[str, ...]) -> Task:
    return Task({m: channels[m] for m in trial.reads}, classes, trial.protocol.image_size)


@torch.no_grad()
def rehearse(trial: Trial, channels: dict[str, int], classes: tuple[str, ...], registry: Registry) -> None:
    """Build the untrained networks of a trial, show them blank images, set its distillers up.

    Args:
        channels: of every modality that the student or a teacher reads.

    Raises:
        IncompatibleError: names the distillers, the student's and the teachers' backbones, and what is missing; or
            a policy that shows the student other images than its teachers were shown.
    """
    if trial.method.teachers and trial.method.policies:
        _refuse_changed_images(trial, _task(trial, channels, classes), registry)
    if not reads_measured(trial, registry):
        return

    def probe(t: Trial) -> tuple[Fusion, Outputs]:
        task = _task(t, channels, classes)
        fusion = build_fusion(t, task, registry).eval()
        return fusion, fusion(blank(task, 2), None, True)

    fusion, student = probe(trial)
    answers = [teacher_output(*probe(t), None) for t in trial.method.teachers]
    kd = wire(trial, tuple(student), registry)
    ids, labels = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    try:
        kd.setup(fusion, shapes_of(student, answers, len(classes), ids, labels))
        with_replaced_heads(fusion, kd, answers)
    except IncompatibleError as error:
        mine, theirs = trial.method.backbone, [t.method.backbone for t in trial.method.teachers]
        who = ", ".join(str(b.params.get("model", b.name)) for b in theirs)
        raise IncompatibleError(
            f"{trial.label} with '{trial.method.kd}' (student {mine.params.get('model', mine.name)}"
            + (f", teachers {who}" if who else "")
            + f"): {error}"
        ) from error


CELLS, STEPS = 16, 4
"""Of the rehearsal of policies: enough for one that changes a tenth of the rows to be found nearly always."""


def _refuse_changed_images(trial: Trial, task: Task, registry: Registry) -> None:
    """Raise `IncompatibleError` for a policy that changes images, other than by leaving a modality out.

    Teachers answer for the view of each cell, computed before any policy acts.
    """
    random = torch.Generator().manual_seed(0)
    views = {m: torch.randn(x.shape, generator=random) for m, x in blank(task, CELLS).items()}
    with torch.enable_grad():
        fusion = build_fusion(trial, task, registry).train()
        policies = build_policies(trial, fusion, registry)
    for policy in policies:
        if isinstance(policy, PerCell):
            policy.setup_cells(CELLS)
    draws = EpochDraws(trial.seed, 0, STEPS, torch.device("cpu"))
    for step in range(STEPS):
        draw = draws.step(step)
        cells = torch.arange(CELLS)
        batch = Batch(cells=cells, labels=cells % task.n_classes, modalities=task.modalities)
        batch = fusion.assemble(batch, draw)
        for policy in policies:
            batch = policy.assemble(batch, draw)
        batch.images = {m: x if batch.rows is None else x[batch.rows[m]] for m, x in views.items()}
        for policy in policies:
            before = {m: x.clone() for m, x in batch.images.items()}
            batch = policy.images(batch, draw)
            for i, m in enumerate(task.modalities):
                changed = (batch.images[m] != before[m]).flatten(1).any(1)
                if batch.present is not None:
                    changed = changed & batch.present[:, i]
                if changed.any():
                    raise IncompatibleError(
                        f"Policy '{policy.name}' changes the images that the student is shown "
                        f"({int(changed.sum())} of {len(changed)} rows of '{m}'), but teachers answer for the "
                        f"unchanged ones, so '{trial.method.kd}' would compare outputs for different images. "
                        "Use it with --kd none, and declare in the policy "
                        '`traits = PolicyTraits(acts_on="images", blends_cells=True)`.'
                    )
