"""Merge the stores of several machines: records are checked, never overwritten, and conflicts are reported.

If stores have different records of a trial, it is irreproducible. All its records are kept in
`<into>/irreproducible/<trial id>/<digest>/`, which boards do not read, until the user decides which one is right.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.errors import UsageError
from wbcbench.files import atomic_folder, atomic_write_bytes, storing
from wbcbench.publishing.pack import WINNER
from wbcbench.publishing.side_files import joined
from wbcbench.records import verify as checks
from wbcbench.records.store import Record, Store
from wbcbench.records.titles import add_titles, read_titles

ASIDE = "irreproducible"


@dataclass
class Merged:
    """The result of a merge, as trial ids."""

    copied: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    """In more than one store, with the same digest."""
    irreproducible: dict[str, str] = field(default_factory=dict)
    """Trial id -> which stores disagree, and by how much."""
    refused: list[str] = field(default_factory=list)
    """Errors of invalid records, which were not copied."""
    without_teacher: dict[str, list[str]] = field(default_factory=dict)
    """Trial id in the target store -> its teachers that are missing there."""

    @property
    def fine(self) -> bool:
        """Whether all records are in the target store."""
        return not (self.irreproducible or self.refused)


def merge(stores: list[Path], into: Path) -> Merged:
    """Copy the records of some stores to one, with their evaluations and studies.

    Teachers are records like any other, so they are copied, too. A trial that was irreproducible once remains so.

    Raises:
        UsageError: a store does not exist, or is the target.
    """
    for store in stores:
        if not (store / "records").is_dir():
            raise UsageError(f"Expected a store with records in {store}, but there is none.")
        if store.resolve() == into.resolve():
            raise UsageError(
                f"Expected stores other than the target of --into, but got {into} for both. Leave it out of the "
                "stores: records that are already in --into are kept."
            )
    target, merged = Store(into), Merged()
    found = _found([*stores, *([into] if (into / "records").is_dir() else [])], merged)
    for trial, records in sorted(found.items()):
        aside = into / ASIDE / trial
        if len({r.result.digest for r in records}) > 1 or aside.is_dir():
            merged.irreproducible[trial] = _set_aside(records, target, aside)
            continue
        if len(records) > 1:
            merged.same.append(trial)
        if not target.has(trial):
            with target.lock(trial):
                if not target.has(trial):
                    _copy(records[0], target.record_path(trial))
                    merged.copied.append(trial)
    for path in stores:
        _beside(path, into, merged.irreproducible)
        add_titles(into, {k: title for k, title in read_titles(path).items() if k not in read_titles(into)})
    for trial, records in sorted(found.items()):
        lacks = [t.id for t in records[0].trial.method.teachers if not target.has(t.id)]
        if lacks and target.has(trial):
            merged.without_teacher[trial] = lacks
    return merged


def _found(stores: list[Path], merged: Merged) -> dict[str, list[Record]]:
    """Trial id -> its records, in the order of the stores."""
    found: dict[str, list[Record]] = {}
    for path in stores:
        records, bad = Store(path).scan()
        merged.refused += [str(error) for _, error in bad]
        for record in records:
            found.setdefault(record.trial.id, []).append(record)
    return found


def _copy(record: Record, place: Path) -> None:
    """Copy a record's folder atomically, and check the copy."""
    with atomic_folder(place) as folder:
        for file in sorted(p for p in record.path.iterdir() if p.is_file()):
            shutil.copyfile(file, folder / file.name)
        checks.check_files(folder, checks.read_result(folder))  # it may have changed while it was copied


def _set_aside(records: list[Record], target: Store, aside: Path) -> str:
    """Move all records of an irreproducible trial aside, and describe how they differ."""
    trial = records[0].trial.id
    with target.lock(trial):
        for record in records:
            place = aside / record.result.digest
            if not place.exists() and record.path != target.record_path(trial):
                _copy(record, place)
        ours = target.record_path(trial)
        if ours.is_dir():
            place = aside / checks.read_result(ours).digest
            with storing(place):
                aside.mkdir(parents=True, exist_ok=True)
                if place.exists():
                    shutil.rmtree(ours)  # the same record as in another store
                else:
                    os.rename(ours, place)
    told = []
    for path in sorted(aside.iterdir()):
        result = checks.read_result(path)
        value = result.metrics.get("test", result.metrics["val"])["macro_f1"]
        where = ", ".join(str(r.path.parent.parent) for r in records if r.result.digest == path.name)
        score = "" if value is None else f"macro-F1 {value:.4f}, "
        told.append(f"{where or 'merged before'}: {score}digest {path.name[:12]}")
    first = records[0]
    return f"{first.trial.label}, kd {first.result.kd}, seed {first.trial.seed}; " + "; ".join(told)


def _beside(store: Path, into: Path, irreproducible: dict[str, str]) -> None:
    """Copy what lies beside records. Existing files are kept; winners of the same study are joined."""
    beside = ("evaluations/**/*.json", "deployed/**/*.json", "references/*.npz", "answers/*.npz", "searches/**/*")
    files = [path for pattern in beside for path in store.glob(pattern)]
    for source in filter(Path.is_file, files):
        place = into / source.relative_to(store)
        if place.name == WINNER and place.exists():
            there = place.read_bytes()
            if (whole := joined([there, source.read_bytes()])) != there:
                atomic_write_bytes(place, whole)
        elif not place.exists() and source.stem not in irreproducible:
            atomic_write_bytes(place, source.read_bytes())


__all__ = ["ASIDE", "Merged", "merge"]
