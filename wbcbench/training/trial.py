"""One trial from its spec to its record: teachers first, then training, one look at test, the record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import Fusion, Output, PairShapes, Task
from wbcbench.data.counter import derive_seed
from wbcbench.data.resident import ResidentCells
from wbcbench.data.views import Views
from wbcbench.errors import IncompatibleError
from wbcbench.evaluation.metrics import score
from wbcbench.evaluation.predict import Predictions, predict
from wbcbench.records.store import Record
from wbcbench.registry import Registry
from wbcbench.registry.provenance import cached_helper_digest, components_of
from wbcbench.spec import Trial, digest
from wbcbench.spec.lessons import Lesson, pair
from wbcbench.training.build import (
    build_distillers,
    build_fusion,
    build_policies,
    build_routing,
    task_of,
)
from wbcbench.training.combiner import fit_combiner
from wbcbench.training.distillation import Distillation
from wbcbench.training.heads import ReplacedHeads, rebuild, replaces, teacher_classifier
from wbcbench.training.imputer import Imputer
from wbcbench.training.loop import EpochDone, Job, fit
from wbcbench.training.once import fit_once
from wbcbench.training.report import write_record
from wbcbench.training.supervision import pair_shapes
from wbcbench.training.teachers import Replay, Teacher, TeacherBank
from wbcbench.training.workbench import Workbench

log = logging.getLogger("wbcbench")


def run_trial(trial: Trial, bench: Workbench, done: EpochDone | None = None) -> tuple[Record, bool]:
    """The trial's record, and whether it was there already.

    Safe to call from several processes at once: one trains, the others wait and read.
    """
    store = bench.store
    if store.has(trial.id):
        store.tidy(trial.id)
        return store.load(trial.id), True
    with store.lock(trial.id):
        if store.has(trial.id):
            return store.load(trial.id), True
        teachers = [run_trial(t, bench)[0] for t in trial.method.teachers]
        record = _train(trial, teachers, bench, done)
        store.clear_failure(trial.id)
        store.tidy(trial.id)
        return record, False


def _train(trial: Trial, teachers: list[Record], bench: Workbench, done: EpochDone | None) -> Record:
    started = datetime.now(UTC)
    cells, split = bench.resident(trial), bench.split(trial)
    train, val = (torch.as_tensor(ids, device=bench.device) for ids in (split.train, split.val))
    fusion = build_fusion(trial, task_of(trial, cells), bench.registry)
    lacking = [m for m in trial.reads if m in cells.incomplete]
    if fusion.missing == "refuse" and lacking:  # unknown to the plan where the data set does not tell
        raise IncompatibleError(
            f"Fusion '{trial.method.fusion.name}' needs every modality of every cell, but some cells have no "
            f"{' or no '.join(lacking)} image. Leave these cells or modalities out (--modalities)."
        )
    if isinstance(imputer := getattr(fusion, "imputer", None), Imputer):
        imputer.measure(cells)
        if imputer.prefix == "token" and cells.present(train, trial.reads) is None and not trial.method.policies:
            log.warning("%s: no training cell lacks a modality, so the token stays at the mean.", trial.label)
    views = Views(cells, trial.protocol.augmentation, trial.seed)
    classes = cells.classes
    used = [bench.registry.get(kind, name) for kind, name in components_of(trial)]
    job = Job(
        trial=trial,
        cells=cells,
        views=views,
        train=train,
        val=val,
        fusion=fusion,
        policies=build_policies(trial, fusion, bench.registry),
        score=lambda p: score(p.probabilities, p.labels, classes).summary,
        checkpoints=bench.store.work(trial.id),
        code=digest([[c.sha256, cached_helper_digest(c)] for c in used]),
    )
    if trial.method.distillers:
        _add_distillers(job, teachers, bench, split.hash)
    state = fit_once(job, done) if fusion.trained == "once" else fit(job, done)
    fusion = job.fusion  # a distiller may have put another head on it

    assert state.best is not None
    fusion.load_state_dict(state.best)
    told = fit_combiner(fusion, cells, val, trial.reads) if fusion.combines else state.best_predictions
    predictions: dict[str, Predictions] = {"val": told or predict(fusion, cells, val, trial.reads)}
    if not trial.sealed:
        test = torch.as_tensor(split.test, device=bench.device)
        predictions["test"] = predict(fusion, cells, test, trial.reads)  # the one look at the test split
    return write_record(job, state, predictions, bench, split, started)


def _add_distillers(job: Job, records: list[Record], bench: Workbench, split_hash: str) -> None:
    """Put the teachers (if any), the routing and one distiller per taught pair into the job."""
    trial, cells, registry = job.trial, job.cells, bench.registry
    needs = [d.needs for d in build_distillers(trial, registry)]
    read_by_teachers = {tap for n in needs for tap in n.teacher}
    job.maps = any("maps" in n.student for n in needs)
    lessons: tuple[Lesson, ...] = ()
    if records:
        teachers = [Teacher(r.trial.reads, r.result.digest, _builder(r, cells, bench)) for r in records]
        routing = build_routing(trial, registry)
        lessons = pair(
            job.fusion.routes,
            [frozenset(t.reads) for t in teachers],
            routing.pairing,
            str(getattr(routing.params, "fallback", "")),
        )
        embedding, maps = "embedding" in read_by_teachers, "maps" in read_by_teachers
        replays = None
        stages: list[int] | None = [0] * len(teachers) if bench.replay else None
        if maps and bench.replay:
            stages = _stages_that_fit(job, teachers, bench)
        if stages is not None:
            replays = [
                Replay(_stream_folder(trial, t, bench, split_hash), t, job.views, job.train, embedding, count)
                for t, count in zip(teachers, stages, strict=True)
            ]
        job.bank = TeacherBank(teachers, replays, job.views, job.train, "maps" in read_by_teachers)
    job.distillation = Distillation(
        partial(build_distillers, trial, registry),
        partial(build_routing, trial, registry),
        lessons,
        job.fusion.routes,
    )
    trainable = any(n.trainable for n in needs) or (bool(records) and build_routing(trial, registry).trainable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(trial.seed, "init", "distillers"))
        _setup(job, trainable or any({"embedding", "maps"} & {*n.student, *n.teacher} for n in needs))


def _stages_that_fit(job: Job, teachers: list[Teacher], bench: Workbench) -> list[int] | None:
    """How many stage maps each teacher has, if those of all epochs fit the replay's budget; else None."""
    ids, views = job.train[:2], job.views.epoch(0)
    found = [t.answer(views, ids, None, maps=True).maps for t in teachers]
    per_cell = sum(m[0].numel() for maps in found for m in maps) * 2  # bytes, in half precision
    whole = per_cell * len(job.train) * job.trial.protocol.budget.epochs
    return [len(maps) for maps in found] if whole <= bench.replay_maps_bytes else None


def _builder(record: Record, cells: ResidentCells, bench: Workbench) -> Any:
    return lambda: load_fusion(record, cells, bench)


def load_fusion(record: Record, cells: ResidentCells, bench: Workbench) -> Fusion:
    """The trained network of a record, on the device."""
    fusion = stored_fusion(record, task_of(record.trial, cells), bench.registry)
    fusion.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fusion


def stored_fusion(record: Record, task: Task, registry: Registry) -> Fusion:
    """The trained network of a record, on the CPU; needs no cells."""
    return fusion_of(record.trial, task, registry, record.weights())


def fusion_of(trial: Trial, task: Task, registry: Registry, weights: Mapping[str, Tensor]) -> Fusion:
    """A trial's network with these weights in it, on the CPU."""
    with torch.enable_grad():  # some find out by a backward pass which layers they need
        fusion = build_fusion(trial, task, registry)
    distillers = build_distillers(trial, registry)
    replacing = replaces(distillers)
    if replacing is not None:
        side = task.image_size
        blank = {m: torch.zeros(1, c, side, side) for m, c in task.channels.items()}
        with torch.no_grad():
            fusion = rebuild(fusion, distillers[replacing], weights, fusion.eval()(blank, None, True))
    fusion.load_state_dict(weights)
    return fusion


def _stream_folder(trial: Trial, teacher: Teacher, bench: Workbench, split_hash: str) -> Any:
    """Where answers of this teacher on this stream lie; the key is everything that fixes them."""
    protocol = trial.protocol
    stream = {
        "teacher": teacher.digest,
        "data": protocol.fingerprint,
        "split": split_hash,
        "image_size": protocol.image_size,
        "augmentation": protocol.augmentation.model_dump(mode="json"),
        "seed": trial.seed,
    }
    return bench.store.replay_dir(digest(stream, length=24))


@torch.no_grad()
def _setup(job: Job, probe: bool) -> None:
    """Show every distiller its pair's shapes, from two cells in eval mode (which leaves all state alone).

    Without `probe` nothing is run and only the shapes known beforehand are shown: loading every teacher
    just to measure an embedding that nobody adapts would undo what replay saves.
    """
    assert job.distillation is not None
    ids = job.train[:2]
    classes, labels = len(job.cells.classes), job.cells.labels
    blank = Output(torch.zeros(2, classes))
    student = dict.fromkeys(job.fusion.routes, blank)
    teachers = [] if job.bank is None else job.bank.teachers
    answers = [blank for _ in teachers]
    if probe:
        job.fusion.to(job.device).eval()
        student = job.fusion({m: job.cells.images(ids, m) for m in job.trial.reads}, maps=True)
        answers = [t.answer(job.views.epoch(0), ids, None, maps=True) for t in teachers]
        if job.bank is not None:
            job.bank.heads = [a.head for a in answers]

    def shapes(route: str, source: str) -> PairShapes:
        other = answers[int(source)] if source.isdigit() else student.get(source, student[route])
        return pair_shapes(student[route], other, classes, job.train, labels)

    job.distillation.setup(job.fusion, shapes)
    _replace_heads(job, answers)


def _replace_heads(job: Job, answers: list[Output]) -> None:
    """Wrap the fusion where a distiller answers through its teacher's classifier."""
    kd = job.distillation
    assert kd is not None
    replacing = [p for p in kd.pairings if kd.of(p)[0].needs.head]
    if not replacing:
        return
    if any(len(p.sources) > 1 for p in replacing):
        raise IncompatibleError(
            f"Distiller '{kd.names[replacing[0].distiller]}' takes over one teacher's classifier, but a route has "
            "several teachers. Choose a fusion whose every route has a teacher of its own, or one teacher."
        )
    job.fusion = ReplacedHeads(
        job.fusion,
        {p.route: kd.of(p)[0] for p in replacing},
        {p.route: teacher_classifier(answers[int(p.sources[0])]) for p in replacing},
    )
