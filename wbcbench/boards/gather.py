"""Records of one or more stores as one set, in which every trial stands once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.boards.entries import Entry
from wbcbench.boards.index import contents, level_for
from wbcbench.boards.model import Refused
from wbcbench.boards.options import Options
from wbcbench.records.schema import ComparisonKey, Used
from wbcbench.records.store import Store


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and the store that it lies in."""

    entry: Entry
    root: Path

    @property
    def path(self) -> Path:
        """The record's folder."""
        return Path(f"{self.root}/records/{self.entry.trial_id}")  # a third of the time of two joins


@dataclass
class Gathered:
    """What the stores hold, and what was left out."""

    trials: dict[str, Found] = field(default_factory=dict)
    """Trial id -> its record."""
    keys: dict[str, ComparisonKey] = field(default_factory=dict)
    components: dict[str, tuple[Used, ...]] = field(default_factory=dict)
    roots: list[Path] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(stores: Sequence[Store], options: Options) -> Gathered:
    """Read the stores.

    The same trial in two stores counts once where the records' digests agree. Where they do not, the trial is not
    reproducible and is left out.
    """
    found = Gathered()
    sealed = 0
    digests: dict[str, set[str]] = {}
    names = {folder.name for store in stores for folder in store.folders()}
    level = options.verify or level_for(len(names))
    for store in stores:
        got = contents(store, level, options.index and not store.packed, store.packed)
        found.roots.append(store.root)
        found.keys |= got.keys
        found.components |= got.components
        found.refused += [refusal(store.root, name, reason) for name, reason in got.refused]
        sealed += got.sealed
        for entry in got.entries:
            digests.setdefault(entry.trial_id, set()).add(entry.digest)
            found.trials.setdefault(entry.trial_id, Found(entry, store.root))
    invalid = {**options.invalid, **{record: why for s in stores for record, why in s.struck_out.items()}}
    struck = 0
    for trial in sorted(found.trials):
        e = found.trials[trial].entry
        why = invalid.get(trial) or invalid.get(e.digest)
        if why is not None:
            del found.trials[trial], digests[trial]
            struck += 1
            text = f"Struck out: trial {trial} ({e.label}, kd {e.kd}, seed {e.seed}). {why}"
            found.refused.append(Refused(record=trial, reason=text))
    torn = sorted(trial for trial, seen in digests.items() if len(seen) > 1)
    for trial in torn:
        e = found.trials.pop(trial).entry
        found.refused.append(
            Refused(
                record=trial,
                reason=f"Trial {trial} ({e.label}, kd {e.kd}, seed {e.seed}) is irreproducible: the stores hold "
                f"{len(digests[trial])} records of it that differ in predictions or weights. None of them counts.",
            )
        )
    if torn:
        found.notes.append(
            f"{_records(len(torn))} irreproducible (stores disagree) and left out: {', '.join(torn)}."
        )
    if struck:
        found.notes.append(f"{_records(struck)} struck out as invalid.")
    if sealed:
        found.notes.append(f"{_records(sealed)} sealed (made by a search, without test predictions) and left out.")
    quick = sum(f.entry.checked == "quick" for f in found.trials.values())
    if quick:
        found.notes.append(
            f"{_records(quick)} checked by the result's own checksum only; --verify full recomputes every metric."
        )
    return found


def _records(count: int) -> str:
    return f"{count} record{'s' * (count != 1)} {'were' if count != 1 else 'was'}"


def refusal(root: Path, name: str, reason: str) -> Refused:
    """A record that is left out. Its reason names the record, not its folder, which differs between machines."""
    path = root / "records" / name
    return Refused(record=name, reason=reason.replace(str(path), name), path=path)


def by_method(found: Iterable[Found]) -> dict[str, list[Found]]:
    """Records of each method in order of seed; methods in order of id."""
    groups: dict[str, list[Found]] = {}
    for f in found:
        groups.setdefault(f.entry.method_id, []).append(f)
    return {m: sorted(groups[m], key=lambda f: (f.entry.seed, f.entry.trial_id)) for m in sorted(groups)}
