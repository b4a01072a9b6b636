"""The record of a finished training: metrics, cost, components, statistics of its images; full evaluations; what
other cells are compared with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbcbench import __version__
from wbcbench.contracts import Fusion
from wbcbench.data.answers import names_of
from wbcbench.data.splits import Split
from wbcbench.data.views import ResidentCells, laid_out
from wbcbench.errors import RecordError, UsageError, WbcbenchError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.evaluation.corrupters import corrupters
from wbcbench.evaluation.cost import latency, macs_or_why, parameters
from wbcbench.evaluation.metrics import ceiling_notes, evaluate, score
from wbcbench.evaluation.predict import Predictions, eval_batch
from wbcbench.evaluation.robustness import corrupt_more, examine
from wbcbench.evaluation.shift import FITTED, HELD_OUT, Evidence, Reference, measure, pixel_digests
from wbcbench.files import atomic_write_bytes
from wbcbench.isolation import contained
from wbcbench.records.environment import capture
from wbcbench.records.evaluations import examination_path, read_examination, write_examination
from wbcbench.records.schema import (
    ComparisonKey,
    Cost,
    Counted,
    InputStatistics,
    Outcome,
    OutsideTeacher,
    Pull,
    Side,
    Used,
)
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.registry.provenance import components_of
from wbcbench.spec import Trial
from wbcbench.training.distillation import Distillation
from wbcbench.training.state import TrainState
from wbcbench.training.strength import COLUMN
from wbcbench.training.wiring import load_fusion
from wbcbench.training.workbench import Answers, Workbench

if TYPE_CHECKING:
    from wbcbench.training.loop import Job
    from wbcbench.training.workbench import Workbench

log = logging.getLogger("wbcbench")

QUANTILES = (0.01, 0.99)
_CHUNK = 2048


def statistics_of(cells: ResidentCells, train: Tensor, modalities: tuple[str, ...]) -> dict[str, InputStatistics]:
    """Modality -> statistics over the training cells (ids [n]) that have it; see `InputStatistics`."""
    found = {}
    for m in modalities:
        images = cells.modalities[m].images
        present = cells.present(train, (m,))
        have = train if present is None else train[present[:, 0]]
        if (median := cells.modalities[m].median) is not None:
            found[m] = InputStatistics(
                bits=32,
                mean=tuple(cells.modalities[m].mean.tolist()),
                std=tuple(cells.modalities[m].std.tolist()),
                brightness=_ranges(images[have] if len(have) else median[None]),
                contrast=(),
                median=tuple(median.tolist()),
                features=cells.features[m],
            )
            continue
        wide = images.dtype == torch.int16  # a 16-bit image is held minus 32768, see `data.resident`
        parts = [brightness_and_contrast(images[ids]) for ids in torch.split(have, _CHUNK)]
        means, sds = (torch.cat(p) for p in zip(*parts, strict=True)) if parts else (torch.zeros(1, 1),) * 2
        found[m] = InputStatistics(
            bits=16 if wide else 8,
            mean=tuple(cells.modalities[m].mean.tolist()),
            std=tuple(cells.modalities[m].std.tolist()),
            brightness=_ranges(means + (32768.0 if wide else 0.0)),
            contrast=_ranges(sds),
        )
    return found


def brightness_and_contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, S, S] pixels -> mean and standard deviation of each image's channels, [B, C] twice, float32."""
    flat = images.to(torch.float32).flatten(2)
    return flat.mean(2), flat.std(2, correction=0)


def _ranges(values: Tensor) -> tuple[tuple[float, float], ...]:
    """[n, C] -> per channel the low and the high quantile, to six digits."""
    ordered = values.sort(0).values.cpu()
    rows = [round(q * (len(ordered) - 1)) for q in QUANTILES]
    low, high = ([float(f"{v:.6g}") for v in ordered[row].tolist()] for row in rows)
    return tuple(zip(low, high, strict=True))


MARGIN = 1.0
"""An image is an outlier if its brightness or contrast is outside the 1 % to 99 % range of training cells by more
than this many widths of that range."""


def unusual_images(
    images: Mapping[str, NDArray[Any]], present: NDArray[np.bool_], statistics: Mapping[str, InputStatistics]
) -> list[list[str]]:
    """What is unusual about the images of each of B cells: constant, much brighter or darker, much lower or higher
    contrast; about its vectors: which numbers are much lower or higher.

        Args:
            images: modality -> [B, C, S, S], or [B, F] of vectors, as stored.
            present: [B, M] in the order of `statistics`.
            statistics: of the training cells.
    """
    found: list[list[str]] = [[] for _ in range(len(present))]
    for column, (m, s) in enumerate(statistics.items()):
        if s.vector:
            for cell, names in enumerate(_unusual_numbers(images[m], s)):
                found[cell] += [f"{m} {name}" for name in names] if present[cell, column] else []
            continue
        x = torch.from_numpy(images[m].astype(np.float32))
        mean, sd = (v.numpy() for v in brightness_and_contrast(x))
        flat = (sd == 0).all(1)
        dark, bright = outside(mean, s.brightness)
        dull, rich = outside(sd, s.contrast)
        kinds = (
            (flat, "constant"),
            (dark, "dark"),
            (bright, "bright"),
            (dull & ~flat, "flat"),
            (rich, "contrasty"),
        )
        for rows, kind in kinds:
            for row in np.flatnonzero(rows & present[:, column]):
                found[row].append(f"{m} {kind}")
    return found


def _unusual_numbers(values: NDArray[Any], s: InputStatistics) -> list[list[str]]:
    """Per cell of [B, F], the numbers far outside their range, as in `cd3 high`; missing ones are not."""
    low, high = np.array(s.brightness, dtype=np.float64).T
    width = np.maximum(high - low, 1e-6) * MARGIN
    found = []
    for row in values:
        ways = {"low": row < low - width, "high": row > high + width}
        found.append([f"{s.features[i]} {way}" for way, far in ways.items() for i in np.flatnonzero(far)])
    return found


def outside(values: NDArray[Any], ranges: tuple[tuple[float, float], ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which of [B, C] values have a channel far below, and far above, its range: [B] bool twice."""
    low, high = np.array(ranges, dtype=np.float64).T
    width = np.maximum(high - low, 1e-6) * MARGIN
    return (values < low - width).any(1), (values > high + width).any(1)


def write_record(
    job: Job,
    state: TrainState,
    predictions: Mapping[str, Predictions],
    bench: Workbench,
    split: Split,
    started: datetime,
) -> Record:
    """Score the predictions, measure the cost, and store everything atomically."""
    trial, cells = job.trial, bench.cells(job.trial)
    arrays = prediction_arrays(predictions, cells.groups)
    notes, names = [*cells.notes], cells.group_names or None
    notes += [f"Leaks were allowed. {sentence}" for sentence in split.leaks.sentences(cells.ids, names)]
    for side, p in predictions.items():
        notes += ceiling_notes(np.bincount(p.labels, minlength=len(cells.classes)), cells.classes, side)
    if job.bank is not None and not job.bank.replayed:
        notes.append(f"teachers ran live: {why_live(job) if bench.replay else 'replay was switched off'}")
    if job.distillation is not None:
        notes += [
            f"{name}: its gradient is zero at the start, so its weight could not be balanced and is the default."
            for name in job.distillation.unbalanced()
        ]
    cost, uncounted = cost_of(job, state)
    notes += [f"Cost: {uncounted}."] if uncounted else []
    outcome = Outcome(
        key=ComparisonKey.of(
            trial,
            fingerprint=cells.fingerprint,
            split=split.family,
            classes=cells.classes,
            ordered=cells.ordered,
        ),
        **evaluate(arrays, cells.classes),
        cost=cost,
        components=used_components(trial, bench.registry),
        notes=notes,
        pseudo_multimodal=cells.pseudo_multimodal,
        inputs=statistics_of(job.cells, job.train, trial.reads),
        resolved=dict(cells.resolved),
        accounts=[Counted.of(account) for account in cells.accounting()],
        group_names=list(cells.group_names),
        pulls=pulls_of(job.distillation, state.history),
        outside=[outside_teacher(a, bench, trial, split) for a in bench.answers(trial)],
        selected_epoch=state.best_epoch,
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return bench.store.write(
        trial,
        outcome,
        predictions=arrays,
        model=job.fusion.state_dict(),
        history=state.history,
        environment=capture(str(job.device)),
        first=None if trial.sealed else lambda result: _keep_reference(trial, result.digest, job.fusion, bench),
    )


def prediction_arrays(
    predictions: Mapping[str, Predictions], groups: NDArray[Any] | None = None
) -> dict[str, NDArray[Any]]:
    """`val` and, unless the trial is sealed, `test` predictions, by the names of a record's arrays.

    Args:
        predictions: by side.
        groups: [all cells] donor, slide or plate, if the data set has them: statistics then resample whole groups
            of test cells.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for side, p in predictions.items():
        arrays[f"{side}_probabilities"] = p.probabilities
        arrays[f"{side}_labels"] = p.labels
        arrays[f"{side}_cells"] = p.cells
    if groups is not None and "test" in predictions:
        arrays["test_groups"] = groups[predictions["test"].cells]
    if "test" in predictions:
        for route, probabilities in predictions["test"].routes.items():
            arrays[f"test_route_{route}"] = probabilities
    return arrays


def cost_of(job: Job, state: TrainState) -> tuple[Cost, str]:
    """Cost of the deployed network (on the trial's device) and of training it, and why a part of it is unknown."""
    deployed = job.fusion.deploy().eval()
    trial, cells = job.trial, job.cells
    views = len(job.train) * trial.protocol.budget.epochs

    def images(count: int) -> dict[str, Tensor]:
        ids = job.train[torch.arange(count, device=job.device) % len(job.train)]
        return {m: laid_out(cells.images(ids, m)) for m in trial.reads}

    timing = latency(deployed, images, job.device)
    count, uncounted = macs_or_why(deployed, images(1))
    cost = Cost(
        params=parameters(deployed),
        macs=count,
        latency_ms=timing["latency_ms"],
        throughput=timing["throughput"],
        train_seconds=state.train_seconds,
        teacher_seconds=state.teacher_seconds,
        train_images_per_second=views / max(state.train_seconds, 1e-9),
        teacher_replayed=None if job.bank is None else job.bank.replayed,
        epochs_run=len(state.history),
        device=timing["device"],
        threads=timing["threads"],
    )
    return cost, uncounted


def pulls_of(kd: Distillation | None, history: Sequence[Mapping[str, Any]]) -> dict[str, Pull]:
    """Distiller -> its weight and its gradient ratios, of those that have a loss."""
    return {} if kd is None else {
        name: Pull(
            weight=weight,
            ratios={r["epoch"]: float(f"{r[column]:.4g}") for r in history if (column := COLUMN + name) in r},
        )
        for name, weight in kd.weights().items()
    }  # fmt: skip


def outside_teacher(answers: Answers, bench: Workbench, trial: Trial, split: Split) -> OutsideTeacher:
    """A teacher from outside on each side of the trial's split; not on the test split of a sealed trial."""
    cells, file = bench.cells(trial), answers.file
    sides: dict[Side, NDArray[np.int64]] = {"train": split.train, "val": split.val}
    if not trial.sealed:
        sides["test"] = split.test
    rows = {side: answers.rows[ids] for side, ids in sides.items()}
    names = names_of(file, cells.ids, len(cells))
    seen = file.trained_on
    return OutsideTeacher(
        name=file.name,
        digest=file.digest,
        answered={side: int((r >= 0).sum()) for side, r in rows.items()},
        trained_on=None
        if seen is None
        else {side: sum(names[i] in seen for i in ids) for side, ids in sides.items()},
        metrics={
            side: score(file.probabilities(r), cells.labels[sides[side]], cells.classes).summary
            for side, r in rows.items()
            if (r >= 0).all()
        },
    )


def used_components(trial: Trial, registry: Registry) -> list[Used]:
    """Every component of the trial, with provider, version and the digest of its file."""
    used = []
    for kind, name in components_of(trial):
        component = registry.get(kind, name)
        used.append(
            Used(
                kind=kind,
                name=component.name,
                provider=component.provider,
                version=component.provider_version or (__version__ if component.builtin else None),
                sha256=component.sha256 or None,
            )
        )
    return used


def why_live(job: Job) -> str:
    """What needs more from a teacher than its stored outputs."""
    if job.bank is not None and job.bank.live:
        return f"{job.bank.live} lets them answer for the images of each step"
    names = [d.name for d in job.trial.method.distillers]
    return f"{' or '.join(names)} reads stage maps, which do not fit replay_maps_gb"


FURTHER = "further_corruptions"
"""In the file of a full evaluation: corruption beyond the standard ones -> SHA-256 of its code."""


@contained()
def examined(record: Record, bench: Workbench, corruptions: Sequence[str] = ()) -> dict[str, Any]:
    """The full evaluation of a record's network on its test split; read from disk if it was already done.

    The record itself does not change: the evaluation selects nothing, so it can be done at any later time.
    `corruptions` are further ones, as `name:key=value`; those that the file lacks are added to it.
    """
    if record.trial.sealed:
        raise UsageError(
            f"Trial {record.trial.id} was proposed by a search and must not see the test split. Evaluate the "
            "retrained winner instead."
        )
    path = examination_path(bench.store.root, record.trial.id)
    entry: dict[str, Any] | None = None
    if path.is_file():
        try:
            found = read_examination(path, record.result.digest)
            entry = found.entry if found.whole else None
        except RecordError:
            pass  # redone below, replacing the file that cannot be trusted
    known = {} if entry is None else entry.get(FURTHER, {})
    further = {c.name: c for c in corrupters(bench.registry, corruptions)}
    further = {name: c for name, c in further.items() if known.get(name) != c.code}
    if entry is not None and not further:
        return entry
    trial = record.trial
    cells, split = bench.resident(trial), bench.split(trial)
    test = torch.as_tensor(split.test, device=bench.device)
    fusion = load_fusion(record, cells, bench)
    entry = entry or {
        "version": EXAMINATION_VERSION,
        "trial_id": trial.id,
        "digest": record.result.digest,
        "method": trial.label,
        "kd": trial.method.kd,
        "policies": [p.name for p in trial.method.policies],
        "seed": trial.seed,
        "modalities": list(trial.reads),
        "result": examine(fusion, cells, test, trial.reads),
    }
    if further:
        more = corrupt_more(fusion, cells, test, trial.reads, list(further.values()))
        for part, modalities in more.items():
            for m, kinds in modalities.items():
                entry["result"][part][m] |= kinds
        entry[FURTHER] = known | {name: c.code for name, c in further.items()}
    write_examination(path, entry)
    return entry


def reference_path(root: Path, trial_id: str) -> Path:
    """The path of what other cells are compared with; the file need not exist."""
    return root / "references" / f"{trial_id}.npz"


def read_reference(path: Path, digest: str) -> Reference:
    """The reference of the record with this digest.

    Raises:
        RecordError: the file is missing, damaged, of another version, or of another record.
    """
    try:
        found = Reference.of_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordError(
            f"The store has no {path.parent.name}/{path.name}, as older versions made none."
        ) from error
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror or error}).") from error
    if found.record != digest:
        raise RecordError(f"{path} is of another record of this trial (its digest differs).")
    return found


def _keep_reference(trial: Trial, digest: str, fusion: Fusion, bench: Workbench) -> Reference:
    """Make the reference and store it beside the record. If it cannot be written, it only logs a line."""
    made = reference_of(trial, digest, fusion, bench)
    path = reference_path(bench.store.root, trial.id)
    try:
        atomic_write_bytes(path, made.to_bytes())
    except WbcbenchError as error:
        log.info("%s cannot be written (%s); it is made again where it is needed.", path, error)
    return made


def reference_for(
    record: Record, store: Store, fusion: Fusion, bench: Workbench | None
) -> tuple[Reference | None, str]:
    """What other cells are compared with, stored or made from the training cells; or None, and why not.

    Args:
        fusion: with the record's weights, on the workbench's device.
        bench: None if the training cells are not available.
    """
    try:
        return read_reference(reference_path(store.root, record.trial.id), record.result.digest), ""
    except RecordError as error:
        if bench is None:
            return None, str(error)
        return _keep_reference(record.trial, record.result.digest, fusion, bench), ""


@torch.no_grad()
def reference_of(trial: Trial, digest: str, fusion: Fusion, bench: Workbench) -> Reference:
    """What other cells are compared with, from the training and validation cells; `digest` is the record's."""
    cells, resident, split = bench.cells(trial), bench.resident(trial), bench.split(trial)
    reads, was_training = trial.reads, fusion.training
    fusion.eval()

    def evidence(ids: NDArray[np.int64], most: int) -> Evidence:
        some = ids[np.linspace(0, len(ids) - 1, min(len(ids), most)).round().astype(np.int64)]
        parts = []
        for chunk in torch.split(torch.as_tensor(some, device=bench.device), eval_batch(bench.device)):
            images = {m: laid_out(resident.images(chunk, m)) for m in reads}
            present = resident.present(chunk, reads)
            outputs = {route: out.float() for route, out in fusion(images, present).items()}
            parts.append(measure(images, outputs, fusion.predict(outputs, present), present))
        return Evidence.joined(parts)

    def digests(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
        parts = [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
        return np.concatenate([pixel_digests({m: cells.images[m][part] for m in reads}) for part in parts])

    made = Reference.fitted(
        digest, len(cells.classes), evidence(split.train, FITTED), evidence(split.val, HELD_OUT),
        digests(split.train), digests(split.val),
    )  # fmt: skip
    fusion.train(was_training)
    return made
