"""Wire a student's distillers to its teachers: the same way in a trial and in the rehearsal before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wbcbench.contracts import Distiller, Fusion, Output, Outputs, PairShapes, Policy, ReplacesHead, Routing
from wbcbench.contracts.needs import RouteTeachers, assign_teachers
from wbcbench.data.counter import derive_seed
from wbcbench.data.views import ResidentCells, Views
from wbcbench.errors import IncompatibleError
from wbcbench.records.store import Record
from wbcbench.registry import Registry
from wbcbench.spec import Augmentation, Trial, digest
from wbcbench.training.build import (
    ReplacedHeads,
    build_distillers,
    build_routing,
    stored_fusion,
    task_of,
    teacher_classifier,
)
from wbcbench.training.distillation import Distillation
from wbcbench.training.frozen import Embeddings, embeddings, networks_of, stream_of
from wbcbench.training.loop import Job
from wbcbench.training.strength import is_balanced
from wbcbench.training.supervision import pair_shapes
from wbcbench.training.teachers import FileTeacher, Replay, Teacher, TeacherBank
from wbcbench.training.workbench import Workbench

MEASURED = {"embedding", "maps"}
"""Taps whose shapes are known only after a network has been run."""


def wire(trial: Trial, routes: tuple[str, ...], registry: Registry) -> Distillation:
    """The trial's distillers, one per student route and source, not yet set up."""
    assigned: tuple[RouteTeachers, ...] = ()
    if trial.method.taught_for:
        reads = [frozenset(r) for r in trial.method.taught_for]
        routing = build_routing(trial, registry)
        assigned = assign_teachers(routes, reads, routing.pairing, str(getattr(routing.params, "fallback", "")))
    return Distillation(
        partial(build_distillers, trial, registry),
        partial(build_routing, trial, registry),
        assigned,
        routes,
        is_balanced(trial),
    )


def reads_measured(trial: Trial, registry: Registry) -> bool:
    """Whether a distiller reads tensors whose shapes are known only after a network has been run."""
    needs = [d.needs for d in build_distillers(trial, registry)]
    routing = build_routing(trial, registry) if trial.method.taught_for else Routing
    return any(MEASURED & {*n.student, *n.teacher} for n in (*needs, routing))


def shapes_of(
    student: Outputs, answers: Sequence[Output], n_classes: int, cells: Tensor, labels: Tensor
) -> Callable[[str, str], PairShapes]:
    """`shapes(route, source)` for `Distillation.setup`, from one probe output of each network.

    `cells`: [n] training ids; `labels`: [N] of all cells.
    """

    def shapes(route: str, source: str) -> PairShapes:
        other = answers[int(source)] if source.isdigit() else student.get(source, student[route])
        return pair_shapes(student[route], other, n_classes, cells, labels)

    return shapes


def with_replaced_heads(fusion: Fusion, kd: Distillation, answers: Sequence[Output]) -> Fusion:
    """The fusion, wrapped where a distiller predicts with its teacher's classifier.

    Raises:
        IncompatibleError: a route would take over the classifiers of several teachers, or of one that has none.
    """
    replacing = [p for p in kd.pairings if isinstance(kd.of(p)[0], ReplacesHead)]
    if not replacing:
        return fusion
    if any(len(p.sources) > 1 for p in replacing):
        raise IncompatibleError(
            f"Distiller '{kd.names[replacing[0].distiller]}' takes over one teacher's classifier, but a route has "
            "several teachers. Choose a fusion whose every route has a teacher of its own, or one teacher."
        )
    return ReplacedHeads(
        fusion,
        {p.route: kd.of(p)[0] for p in replacing},
        {p.route: teacher_classifier(answers[int(p.sources[0])]) for p in replacing},
    )


def add_distillers(job: Job, records: list[Record], bench: Workbench, split_hash: str) -> None:
    """Put the teachers (if any), the routing and one distiller per taught pair into the job."""
    trial, registry = job.trial, bench.registry
    needs = [d.needs for d in build_distillers(trial, registry)]
    routing = build_routing(trial, registry) if trial.method.taught_for else Routing
    job.maps = any("maps" in n.student for n in (*needs, routing))
    job.inputs = any(n.inputs for n in needs)
    if trial.method.taught_for:
        taps: set[str] = {tap for n in (*needs, routing) for tap in n.teacher}
        job.bank = _teacher_bank(job, records, bench, split_hash, taps)
    job.distillation = wire(trial, job.fusion.routes, registry)
    routed = job.bank is not None and routing.trainable
    trainable = routed or any(n.trainable for n in needs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(trial.seed, "init", "distillers"))
        _setup(job, trainable or reads_measured(trial, registry))


@torch.no_grad()
def _setup(job: Job, probe: bool) -> None:
    """Give every distiller its pair's shapes, from two cells in eval mode (which changes no state).

    Without `probe` nothing is run and only the shapes known beforehand are given: loading every teacher
    just to measure an embedding that no adapter uses would cost what replay saves.
    """
    kd = job.distillation
    assert kd is not None
    ids = job.train[:2]
    classes = len(job.cells.classes)
    blank = Output(torch.zeros(2, classes))
    student = dict.fromkeys(job.fusion.routes, blank)
    teachers = () if job.bank is None else job.bank.teachers
    answers = [blank for _ in teachers]
    if probe:
        job.fusion.to(job.device).eval()
        student = job.fusion({m: job.cells.images(ids, m) for m in job.trial.reads}, maps=True)
        answers = [t.answer(t.seen(job.views).epoch(0), ids, None, maps=True) for t in teachers]
        if job.bank is not None:
            job.bank.heads = [a.head for a in answers]
    kd.setup(job.fusion, shapes_of(student, answers, classes, job.train, job.cells.labels))
    job.fusion = with_replaced_heads(job.fusion, kd, answers)


def _teacher_bank(
    job: Job, records: list[Record], bench: Workbench, split_hash: str, taps: set[str]
) -> TeacherBank:
    """The teachers, replayed if their outputs are of cells and fit the budget for all epochs, else live."""
    maps, embedding = "maps" in taps, "embedding" in taps
    teachers = [_teacher(r, job, bench, split_hash) for r in records]
    live = asks_live(job.policies, build_distillers(job.trial, bench.registry))
    stages: list[int] | None = [0] * len(teachers) if bench.replay and not live else None
    if maps and stages is not None:
        stages = _stages_that_fit(job, teachers, bench)
    outside = [FileTeacher(answers, job.train) for answers in bench.answers(job.trial)]
    replays = None
    if stages is not None:
        replays = [
            Replay(
                _stream_folder(job.trial, r.trial, t, bench, split_hash),
                t,
                job.views,
                job.train,
                embedding,
                count,
            )
            for r, t, count in zip(records, teachers, stages, strict=True)
        ]
    return TeacherBank(
        [*teachers, *outside],
        None if replays is None else [*replays, *outside],
        job.views,
        job.train,
        maps,
        live,
        "inputs" in taps,
    )


def asks_live(policies: Sequence[Policy], distillers: Sequence[Distiller]) -> str:
    """Why teachers must answer for the images of each step, as the subject of a clause; empty if they need not."""
    asking = [f"policy '{p.name}'" for p in policies if p.traits.asks_live]
    asking += [f"distiller '{d.name}'" for d in distillers if d.needs.asks_live]
    return asking[0] if asking else ""


def _stages_that_fit(job: Job, teachers: list[Teacher], bench: Workbench) -> list[int] | None:
    """How many stage maps each teacher has, if those of all epochs fit the replay's budget; else None."""
    ids = job.train[:2]
    found = [t.answer(t.seen(job.views).epoch(0), ids, None, maps=True).maps for t in teachers]
    per_cell = sum(m[0].numel() for maps in found for m in maps) * 2  # bytes, in half precision
    whole = per_cell * len(job.train) * job.stored_epochs
    return [len(maps) for maps in found] if whole <= bench.replay_maps_bytes else None


def _teacher(record: Record, job: Job, bench: Workbench, split_hash: str) -> Teacher:
    """A frozen teacher. With an image side of its own it reads its own cells, in the student's views of them."""
    trial, side = record.trial, job.trial.protocol.image_size
    seen = _seen(job.trial)

    def own() -> ResidentCells:
        return bench.resident(trial, beside=job.cells)

    def embeds(fusion: Fusion, views: Views) -> Embeddings | None:
        """Stored embeddings, if those of all epochs fit the replay's budget."""
        networks = networks_of(fusion, trial, views.cells, job.train[:2])
        whole = sum(n.dim for n in networks.values()) * 4 * len(job.train) * job.stored_epochs
        if not networks or whole > bench.replay_maps_bytes:
            return None
        stream = stream_of(job.trial, trial.protocol.image_size, split_hash, seen)
        return embeddings(networks, trial, bench, views, job.train, stream)

    if trial.protocol.image_size == side:
        views = None if seen == job.views.augmentation else (lambda: Views(job.cells, seen, job.trial.seed))
        build = partial(load_fusion, record, job.cells, bench)
        return Teacher(trial.reads, record.result.digest, build, views, embeds)
    return Teacher(
        trial.reads,
        record.result.digest,
        lambda: load_fusion(record, own(), bench),
        lambda: Views(own(), seen, job.trial.seed, student_side=side),
        embeds,
    )


def _seen(trial: Trial) -> Augmentation:
    """The augmentation of the views that the trial's teachers see."""
    augmentation = trial.protocol.augmentation
    return augmentation.weak() if trial.method.teacher_views == "weak" else augmentation


def load_fusion(record: Record, cells: ResidentCells, bench: Workbench) -> Fusion:
    """The trained network of a record, on the device."""
    fusion = stored_fusion(record, task_of(record.trial, cells), bench.registry)
    fusion.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fusion


def _stream_folder(trial: Trial, taught_by: Trial, teacher: Teacher, bench: Workbench, split_hash: str) -> Path:
    """The folder of this teacher's outputs on this stream; the key is everything that determines them."""
    stream = stream_of(trial, taught_by.protocol.image_size, split_hash, _seen(trial))
    return bench.store.replay_dir(digest({"teacher": teacher.digest, **stream}, length=24))
