"""Checks that networks can be built, and that distillers can read them, before anything is trained."""

from __future__ import annotations

import logging

import torch

from wbcbench.contracts import Batch, Description, Draw, DrawsSlots, Fusion, Output, Outputs, PerCell, Policy, Task
from wbcbench.data.views import EpochDraws
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.evaluation.cost import macs_or_why
from wbcbench.registry import Registry
from wbcbench.spec import Trial
from wbcbench.training.build import build_distillers, build_fusion, build_policies, channels_read
from wbcbench.training.supervision import with_labels
from wbcbench.training.teachers import teacher_output
from wbcbench.training.wiring import asks_live, reads_measured, shapes_of, wire, with_replaced_heads

log = logging.getLogger("wbcbench")


def construct(trial: Trial, data: Description, registry: Registry) -> None:
    """Build the network of a trial, count its operations and discard it.

    This finds stages, widths and layers that its parts lack, before anything is trained.

    Args:
        trial: of any method; its policies and distillers are not checked.
        data: of the cells that it reads.
        registry: of the trial's components.

    Raises:
        IncompatibleError: names the method and its backbone, and states what does not fit. Other
            exceptions are only logged; they will fail the trial itself.
    """
    try:
        fusion = build_fusion(trial, _task(trial, data), registry)
        channels_read(fusion)
    except UsageError as error:
        raise IncompatibleError(f"{trial.label} with backbone {trial.method.backbone_name}: {error}") from error
    except Exception:
        log.debug("%s could not be built", trial.label, exc_info=True)
        return
    if why := macs_or_why(fusion.deploy(), fusion.task.blank(1))[1]:
        log.warning("%s: %s. It is trained, and its MACs stay blank.", trial.label, why)


def _task(trial: Trial, data: Description) -> Task:
    channels = {m: data.modalities[m] for m in trial.reads}
    return Task(channels, data.classes, trial.protocol.image_size, data.vectors & set(channels))


@torch.no_grad()
def rehearse(trial: Trial, data: Description, registry: Registry) -> None:
    """Build the untrained networks of a trial, show them blank images, set its distillers up.

    Args:
        data: of the cells that the student or a teacher reads.

    Raises:
        IncompatibleError: names the distillers, the student's and the teachers' backbones, and what is missing; or
            a policy that mixes images for which teachers have answered.
    """
    if trial.method.taught_for:
        _refuse_other_images(trial, _task(trial, data), registry)
    if not reads_measured(trial, registry):
        return

    def probe(t: Trial) -> tuple[Fusion, Outputs]:
        task = _task(t, data)
        fusion = build_fusion(t, task, registry).eval()
        return fusion, fusion(task.blank(2), None, True)

    fusion, student = probe(trial)
    answers = [teacher_output(*probe(t), None) for t in trial.method.teachers]
    answers += [
        Output(torch.zeros(2, len(data.classes)), torch.zeros(2, t.embedding) if t.embedding else None)
        for t in trial.method.outside
    ]
    kd = wire(trial, tuple(student), registry)
    ids, labels = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    try:
        kd.setup(fusion, shapes_of(student, answers, len(data.classes), ids, labels))
        with_replaced_heads(fusion, kd, answers)
    except IncompatibleError as error:
        theirs = [t.method.backbone_name for t in trial.method.teachers]
        who = ", ".join(theirs + [t.name for t in trial.method.outside])
        raise IncompatibleError(
            f"{trial.label} with '{trial.method.kd}' (student {trial.method.backbone_name}"
            + (f", teachers {who}" if who else "")
            + f"): {error}"
        ) from error


CELLS, STEPS = 16, 4
"""Of the rehearsal of policies: enough to find nearly always one that mixes a tenth of the rows."""


def _refuse_other_images(trial: Trial, task: Task, registry: Registry) -> None:
    """Raise `IncompatibleError` where teachers would answer for other images than the student is shown."""
    with torch.enable_grad():
        fusion = build_fusion(trial, task, registry).train()
        policies = build_policies(trial, fusion, registry)
    for policy in policies:
        if isinstance(policy, PerCell):
            policy.setup_cells(CELLS)
    if who := asks_live(policies, build_distillers(trial, registry)):
        _refuse_other_cells(trial, task, registry, fusion, policies, who)
    elif policies:
        _refuse_blended_images(trial, task, fusion, policies)


def _refuse_blended_images(trial: Trial, task: Task, fusion: Fusion, policies: list[Policy]) -> None:
    """Raise `IncompatibleError` for a policy that shows parts of other cells and does not declare it.

    Teachers answer for each cell's own view, computed before any policy acts. Two batches differ in the first half
    of their rows; a policy that makes them differ in the second half has mixed rows.
    """
    random = torch.Generator().manual_seed(0)
    views = [{m: torch.randn(x.shape, generator=random) for m, x in task.blank(CELLS).items()} for _ in range(2)]
    draws = EpochDraws(trial.seed, 0, STEPS, torch.device("cpu"))
    for step in range(STEPS):
        draw = draws.step(step)
        batches = [_assembled(task, fusion, policies, draw) for _ in views]
        for batch, seen in zip(batches, views, strict=True):
            for m, x in views[0].items():
                rows = torch.arange(CELLS) if batch.rows is None else batch.rows[m]
                half = len(rows) // 2
                batch.images[m] = torch.cat([seen[m][rows[:half]], x[rows[half:]]])
        for policy in policies:
            batches = [policy.images(batch, draw) for batch in batches]
            one, two = (batch.images for batch in batches)
            for m in task.modalities:
                half = len(one[m]) // 2
                mixed = (one[m][half:] != two[m][half:]).flatten(1).any(1)
                if mixed.any():
                    raise IncompatibleError(
                        f"Policy '{policy.name}' shows the student images that are mixed from several cells "
                        f"({int(mixed.sum())} of {len(mixed)} rows of '{m}'), but teachers answer for each "
                        f"cell's own image, so '{trial.method.kd}' would compare outputs for different images. "
                        "Use the policy with --kd none, and declare in it `traits = "
                        'PolicyTraits(acts_on="images", blends_cells=True)`.'
                    )


def _refuse_other_cells(
    trial: Trial, task: Task, registry: Registry, fusion: Fusion, policies: list[Policy], who: str
) -> None:
    """Raise `IncompatibleError` where a teacher that answers for the images of a row would see other cells in it
    than the route that it teaches. `who`: why it does."""
    batch = _assembled(task, fusion, policies, EpochDraws(trial.seed, 0, 1, torch.device("cpu")).step(0))
    if batch.rows is None:
        return
    rows = len(next(iter(batch.rows.values())))
    outputs = with_labels(fusion(task.blank(rows)), batch)
    for pairing in (p for p in wire(trial, fusion.routes, registry).pairings if p.taught):
        own = outputs[pairing.route].rows
        for m in {m for s in pairing.sources for m in trial.method.taught_for[int(s)]}:
            if own is None or not torch.equal(own, batch.rows[m]):
                raise IncompatibleError(
                    f"Route '{pairing.route}' of fusion '{fusion.name}' is taught for the cell that a row shows "
                    f"in {' and '.join(sorted(outputs[pairing.route].reads))}, but its teacher would see "
                    f"another cell in {m}, since {who} lets teachers answer for the images of each step."
                    " Give each head a teacher of its own modality, or choose a fusion whose rows show one cell."
                )


def _assembled(task: Task, fusion: Fusion, policies: list[Policy], draw: Draw) -> Batch:
    cells = torch.arange(CELLS)
    batch = Batch(cells=cells, labels=cells % task.n_classes, images={}, modalities=task.modalities)
    if isinstance(fusion, DrawsSlots) and (slots := fusion.slots([cells], draw)) is not None:
        batch.rows = {m: rows for m, (rows,) in slots.items()}
    batch = fusion.assemble(batch, draw)
    for policy in policies:
        batch = policy.assemble(batch, draw)
    return batch
