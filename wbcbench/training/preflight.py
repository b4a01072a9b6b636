"""A dress rehearsal: whether networks can be built, and distillers read them, before anything is trained."""

from __future__ import annotations

import logging
from functools import partial

import torch

from wbcbench.contracts import Outputs, PairShapes, Task
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.registry import Registry
from wbcbench.spec import Trial
from wbcbench.spec.lessons import Lesson, pair
from wbcbench.training.build import build_distillers, build_fusion, build_routing
from wbcbench.training.distillation import Distillation
from wbcbench.training.supervision import pair_shapes
from wbcbench.training.teachers import speak

log = logging.getLogger("wbcbench")


def construct(trial: Trial, channels: dict[str, int], classes: tuple[str, ...], registry: Registry) -> None:
    """Build the network of a trial and throw it away: stages, widths and layers that its parts do not have.

    Args:
        trial: of any method; its policies and distillers are left alone.
        channels: of every modality that it reads.
        classes: their names.
        registry: of the trial's components.

    Raises:
        IncompatibleError: names the method and its backbone, and says what does not fit. Code that breaks down in
            another way is a matter of its own trial.
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
    needs = [d.needs for d in build_distillers(trial, registry)]
    if not any({"embedding", "maps"} & {*n.student, *n.teacher} for n in needs):
        return

    def outputs(t: Trial) -> tuple[Outputs, object]:
        task = _task(t, channels, classes)
        fusion = build_fusion(t, task, registry).eval()
        size = task.image_size
        found: Outputs = fusion({m: torch.zeros(2, c, size, size) for m, c in task.channels.items()}, None, True)
        return found, fusion

    student, _ = outputs(trial)
    routing = build_routing(trial, registry) if trial.method.teachers else None
    spoken = [outputs(t) for t in trial.method.teachers]
    answers = [speak(fusion, found, None) for found, fusion in spoken]  # type: ignore[arg-type]
    lessons: tuple[Lesson, ...] = ()
    if routing is not None:
        reads = [frozenset(t.reads) for t in trial.method.teachers]
        lessons = pair(tuple(student), reads, routing.pairing, str(getattr(routing.params, "fallback", "")))
    ids, labels = torch.arange(2), torch.zeros(2, dtype=torch.int64)

    def shapes(route: str, source: str) -> PairShapes:
        other = answers[int(source)] if source.isdigit() else student.get(source, student[route])
        return pair_shapes(student[route], other, len(classes), ids, labels)

    kd = Distillation(
        partial(build_distillers, trial, registry),
        partial(build_routing, trial, registry),
        lessons,
        tuple(student),
    )
    try:
        for pairing in kd.pairings:
            for source, distiller in zip(pairing.sources, kd.of(pairing), strict=True):
                distiller.setup(shapes(pairing.route, source))
    except IncompatibleError as error:
        mine, theirs = trial.method.backbone, [t.method.backbone for t in trial.method.teachers]
        who = ", ".join(str(b.params.get("model", b.name)) for b in theirs)
        raise IncompatibleError(
            f"{trial.label} with '{trial.method.kd}' (student {mine.params.get('model', mine.name)}"
            + (f", teachers {who}" if who else "")
            + f"): {error}"
        ) from error
