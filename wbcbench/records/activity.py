"""What happens in a store, from its files only: sweeps, running trials and failures. Reading changes nothing.

A run writes the trials that it is to finish to `sweeps/`, and every trial what it is to `work/<id>/trial.json`;
epochs and scores are read from the checkpoints. So any machine that sees the store can watch a sweep.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.errors import RecordError
from wbcbench.files import DOCUMENTS, atomic_write_json
from wbcbench.records.store import Store
from wbcbench.records.verify import read_result
from wbcbench.spec import digest

if TYPE_CHECKING:
    from wbcbench.spec.trial import Trial

TRIAL = "trial.json"
CHECKPOINT = "checkpoint.safetensors"
SILENT = 120.0
"""Seconds without a sign of life after which a trial may have stopped; longer if its epochs are."""
RECENT = 8
"""Number of finished trials that are read."""
_LARGEST_HEADER = 64 * 2**20


@contextmanager
def announced(store: Store, trials: Sequence[str]) -> Iterator[None]:
    """Say which trials a sweep is to finish. If it is interrupted, this stays until the same sweep has ended."""
    path = store.root / "sweeps" / f"{digest(sorted(trials), length=16)}.json"
    atomic_write_json(path, {"started": time.time(), "trials": list(trials)})
    yield
    with suppress(OSError):
        path.unlink(missing_ok=True)


def begin(store: Store, trial: Trial) -> None:
    """Say what a trial is, next to its checkpoint."""
    document = {
        "label": trial.title, "seed": trial.seed, "fold": trial.fold, "epochs": trial.protocol.budget.epochs,
        "sealed": trial.sealed,
    }  # fmt: skip
    atomic_write_json(store.work(trial.id) / TRIAL, document)


@dataclass(frozen=True)
class Sweep:
    """The trials of a run that has not ended."""

    started: float
    """Seconds since 1970."""
    trials: int
    done: int
    failed: int
    running: int

    @property
    def waiting(self) -> int:
        return max(0, self.trials - self.done - self.failed - self.running)


@dataclass(frozen=True)
class Training:
    """A trial that has begun and has no record."""

    trial_id: str
    name: str
    epoch: int
    """Number of finished epochs."""
    epochs: int | None
    validation: float | None
    """Macro-F1 after the last epoch."""
    silent: float
    """Seconds since the last sign of life."""
    alive: bool
    """Whether it probably runs: it was heard of recently, measured by its epochs."""
    seconds_left: float | None


@dataclass(frozen=True)
class Finished:
    """A finished trial."""

    trial_id: str
    name: str
    validation: float | None
    """Macro-F1. Test results are on leaderboards only."""
    seconds: float | None
    """Of training."""


@dataclass(frozen=True)
class Failure:
    """A trial whose last attempt failed."""

    trial_id: str
    name: str
    error: str
    """The last line."""


@dataclass(frozen=True)
class Activity:
    """The state of a store."""

    records: int
    sweeps: tuple[Sweep, ...]
    training: tuple[Training, ...]
    """Most recent sign of life first."""
    recent: tuple[Finished, ...]
    """The last finished trials, latest first."""
    failures: tuple[Failure, ...]
    searches: dict[str, int]
    """Study -> number of proposals so far."""

    @property
    def running(self) -> int:
        """Number of trials that probably run."""
        return sum(t.alive for t in self.training)


def activity(store: Store, now: float | None = None) -> Activity:
    """Read the state of a store. Files that are being written or are damaged are left out."""
    now = time.time() if now is None else now
    folders = {folder.name: folder for folder in store.folders()}
    training = sorted(_training(store, folders.keys(), now), key=lambda t: t.silent)
    failures = tuple(_failures(store, {t.trial_id for t in training if t.alive}))
    done, failed = set(folders), {f.trial_id for f in failures}
    alive = {t.trial_id for t in training if t.alive}
    sweeps = []
    for document in _documents(store.root / "sweeps"):
        ids = set(map(str, document.get("trials", ())))
        counts = len(ids & done), len(ids & failed - done), len(ids & alive)
        sweeps.append(Sweep(float(document.get("started", 0.0)), len(ids), *counts))
    latest = sorted(folders.values(), key=_changed, reverse=True)[:RECENT]
    base = store.root / "searches"
    studies = sorted(p for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    return Activity(
        records=len(folders),
        sweeps=tuple(sorted(sweeps, key=lambda s: s.started)),
        training=tuple(training),
        recent=tuple(f for folder in latest if (f := _finished(folder)) is not None),
        failures=failures,
        searches={p.name: len(list(p.glob("proposals/*.json"))) for p in studies},
    )


def _training(store: Store, done: Any, now: float) -> Iterator[Training]:
    base = store.root / "work"
    for folder in base.iterdir() if base.is_dir() else ():
        said = _document(folder / TRIAL)
        if folder.name in done or not folder.is_dir() or said is None:
            continue
        meta = checkpoint_meta(folder / CHECKPOINT)
        heard = max(_changed(folder / TRIAL), _changed(folder / CHECKPOINT))
        if heard <= _changed(store.root / "failures" / f"{folder.name}.json"):
            continue
        silent = max(0.0, now - heard)
        history = meta.get("history") or []
        epoch, epochs = int(meta.get("epoch") or len(history)), said.get("epochs")
        each = float(meta.get("train_seconds") or 0.0) / max(1, epoch)
        yield Training(
            trial_id=folder.name, name=_name(said), epoch=epoch, epochs=epochs,
            validation=history[-1].get("val_macro_f1") if history else None,
            silent=silent, alive=silent < max(SILENT, 5 * each),
            seconds_left=each * (epochs - epoch) if each and epochs else None,
        )  # fmt: skip


def checkpoint_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= _LARGEST_HEADER:
                return {}
            header = json.loads(file.read(size))
        meta = json.loads(header["__metadata__"]["wbcbench"])
    except (OSError, *DOCUMENTS, KeyError, TypeError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _failures(store: Store, again: set[str]) -> Iterator[Failure]:
    for document in _documents(store.root / "failures"):
        if document.get("trial_id") not in again:
            lines = str(document.get("error", "")).strip().splitlines() or ["no reason given"]
            yield Failure(str(document.get("trial_id", "")), _name(document), lines[-1])


def _finished(folder: Path) -> Finished | None:
    try:
        r = read_result(folder)
    except RecordError:
        return None
    return Finished(r.trial_id, f"{r.title}, seed {r.seed}", r.metrics["val"]["macro_f1"], r.cost.train_seconds)


def _name(document: dict[str, Any]) -> str:
    fold = "" if document.get("fold") is None else f", fold {document['fold']}"
    proposal = "proposal " if document.get("sealed") else ""
    return f"{proposal}{document.get('label', '?')}, seed {document.get('seed', '?')}{fold}"


def _documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        if (found := _document(path)) is not None:
            yield found


def _document(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, *DOCUMENTS):
        return None
    return found if isinstance(found, dict) else None


def _changed(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


__all__ = [
    "Activity",
    "Failure",
    "Finished",
    "Sweep",
    "Training",
    "activity",
    "announced",
    "begin",
    "checkpoint_meta",
]
