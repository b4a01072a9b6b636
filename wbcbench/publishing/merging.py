"""Joining stores of several machines: every record is checked, none is overwritten, disagreement is told."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.errors import RecordError, UsageError
from wbcbench.records.atomic import atomic_folder, atomic_write_bytes
from wbcbench.records.store import Record, Store


@dataclass
class Merged:
    """What became of the stores' records; trial ids."""

    copied: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    """In more than one store, with one digest."""
    irreproducible: dict[str, str] = field(default_factory=dict)
    """Trial id -> which stores disagree, and by how much; none of their records was copied."""
    refused: list[str] = field(default_factory=list)
    """Why records cannot be trusted."""


def merge(stores: list[Path], into: Path) -> Merged:
    """Copy the records of some stores into one, with what stands beside them (evaluations, studies).

    A trial of which two stores have different records is irreproducible: none of the records is copied; one that
    lies in `into` already stays there, and is named.

    Raises:
        UsageError: a store is not there, or is the one to write to.
    """
    for store in stores:
        if not (store / "records").is_dir():
            raise UsageError(f"Expected a store with records in {store}, but there is none.")
        if store.resolve() == into.resolve():
            raise UsageError(
                f"{into} is both read and written to. Name the other stores, and --into alone for it."
            )
    target = Store(into)
    found: dict[str, list[Record]] = {}
    merged = Merged()
    for path in [*stores, *([into] if (into / "records").is_dir() else [])]:
        records, bad = Store(path).scan()
        merged.refused += [str(error) for _, error in bad]
        for record in records:
            found.setdefault(record.trial.id, []).append(record)
    for trial, records in sorted(found.items()):
        if len({r.result.digest for r in records}) > 1:
            merged.irreproducible[trial] = _disagreement(records)
            continue
        if len(records) > 1:
            merged.same.append(trial)
        if target.has(trial):
            continue
        with target.lock(trial):
            if not target.has(trial):
                _copy(records[0], target)
                merged.copied.append(trial)
    for path in stores:
        _beside(path, into, merged.irreproducible)
    return merged


def _copy(record: Record, target: Store) -> None:
    place = target.record_path(record.trial.id)
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(place) as folder:
        for file in sorted(record.path.iterdir()):
            shutil.copyfile(file, folder / file.name)
    try:
        target.load(record.trial.id)
    except RecordError:
        shutil.rmtree(place)  # it changed while it was copied
        raise


def _disagreement(records: list[Record]) -> str:
    told = []
    for r in records:
        value = r.result.metrics.get("test", r.result.metrics["val"])["macro_f1"]
        told.append(f"{r.path.parent.parent}: macro-F1 {value:.4f}, digest {r.result.digest[:12]}")
    return f"{records[0].trial.label}, kd {records[0].result.kd}, seed {records[0].trial.seed}; " + "; ".join(told)


def _beside(store: Path, into: Path, irreproducible: dict[str, str]) -> None:
    """Examinations and studies; what is there already stays."""
    for source in [*store.glob("evaluations/*.json"), *(p for p in store.glob("searches/**/*") if p.is_file())]:
        place = into / source.relative_to(store)
        if not place.exists() and source.stem not in irreproducible:
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(place, source.read_bytes())


__all__ = ["Merged", "merge"]
