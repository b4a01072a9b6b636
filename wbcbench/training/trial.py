"""One trial from its spec to its record: teachers first, then training, one test evaluation, the record."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import torch

from wbcbench.contracts import SolvedOnce
from wbcbench.data.views import Views
from wbcbench.errors import IncompatibleError
from wbcbench.evaluation.metrics import score
from wbcbench.evaluation.predict import Predictions, predict
from wbcbench.records.activity import begin
from wbcbench.records.store import Record
from wbcbench.registry.provenance import cached_helper_digest, components_of
from wbcbench.spec import Trial, digest
from wbcbench.training.build import (
    Imputer,
    build_fusion,
    build_policies,
    combiner_of,
    measure_inputs,
    task_of,
)
from wbcbench.training.fitted import fit_combiner, fit_once
from wbcbench.training.frozen import embedded, views_of
from wbcbench.training.loop import EpochDone, Job, fit
from wbcbench.training.report import write_record
from wbcbench.training.wiring import add_distillers
from wbcbench.training.workbench import Workbench

log = logging.getLogger("wbcbench")


def run_trial(trial: Trial, bench: Workbench, done: EpochDone | None = None) -> tuple[Record, bool]:
    """The trial's record, and whether it already existed.

    Several processes can call this at the same time: one trains, the others wait and read.
    """
    store = bench.store
    if store.has(trial.id):
        store.tidy(trial.id)
        return store.load(trial.id), True
    with store.lock(trial.id):
        if store.has(trial.id):
            store.tidy(trial.id)  # whoever held the lock may have been killed before it could
            return store.load(trial.id), True
        teachers = [run_trial(t, bench)[0] for t in trial.method.teachers]
        begin(store, trial)
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
    if fusion.traits.missing == "refuse" and lacking:  # unknown to the plan where the data set does not tell
        raise IncompatibleError(
            f"Fusion '{trial.method.fusion.name}' needs every modality of every cell, but some cells have no "
            f"{' or no '.join(lacking)} image. Leave these cells or modalities out (--modalities)."
        )
    measure_inputs(fusion, cells)
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
    augmentation = trial.protocol.augmentation
    job.views_per_cell = views_of(fusion, augmentation.views if augmentation.random else 1)
    if trial.method.distillers:
        add_distillers(job, teachers, bench, split.hash)
    job.embedded = embedded(job, bench, split.hash)
    state = fit_once(job, done) if isinstance(fusion, SolvedOnce) else fit(job, done)
    fusion = job.fusion  # a distiller may have put another head on it

    assert state.best is not None
    fusion.load_state_dict(state.best)
    told = fit_combiner(fusion, cells, val, trial.reads) if combiner_of(fusion) else state.best_predictions
    predictions: dict[str, Predictions] = {"val": told or predict(fusion, cells, val, trial.reads)}
    if not trial.sealed:
        test = torch.as_tensor(split.test, device=bench.device)
        predictions["test"] = predict(fusion, cells, test, trial.reads)  # the only evaluation on the test split
    return write_record(job, state, predictions, bench, split, started)
