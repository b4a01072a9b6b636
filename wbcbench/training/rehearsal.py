"""Checks that networks can be built, and that distillers can read them, before anything is trained."""

from __future__ import annotations

import logging

import torch

from wbcbench.contracts import Fusion, Outputs, Task
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.registry import Registry
from wbcbench.spec import Trial
from wbcbench.training.build import build_fusion
from wbcbench.training.teachers import teacher_output
from wbcbench.training.wiring import reads_measured, shapes_of, wire, with_replaced_heads

log = logging.getLogger("wbcbench")


def construct(trial: Trial, channels: dict[str, int], classes: tuple[str, ...], registry: Registry) -> None:
    """Build the network of a trial and discard it, to find stages, widths and layers that its parts lack.

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
        build_fusion(trial, _task(trial, channels, classes), registry)
    except UsageError as error:
        model = trial.method.backbone.params.get("model", trial.method.backbone.name)
        raise IncompatibleError(f"{trial.label} with backbone {model}: {error}") from error
    except Exception:
        log.debug("%s could not be built", trial.label, exc_info=True)


def _task(trial: Trial, channels: dict[str, int], classes: tuple[str, ...]) -> Task:
    return Task({m: channels[m] for m in trial.reads}, classes, trial.protocol.image_size)


@torch.no_grad()
def rehearse(trial: Trial, channels: dict[str, int], classes: tuple[str, ...], registry: Registry) -> None:
    """Build the untrained networks of a trial, show them blank images, set its distillers up.

    Args:
        channels: of every modality that the student or a teacher reads.

    Raises:
        IncompatibleError: names the distillers, the student's and the teachers' backbones, and what is missing.
    """
    if not reads_measured(trial, registry):
        return

    def probe(t: Trial) -> tuple[Fusion, Outputs]:
        task = _task(t, channels, classes)
        fusion = build_fusion(t, task, registry).eval()
        size = task.image_size
        return fusion, fusion({m: torch.zeros(2, c, size, size) for m, c in task.channels.items()}, None, True)

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
