"""Combines the records of one or more stores; groups them into boards, and decides which seeds a row needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wbcbench.boards.entries import Found
from wbcbench.boards.folds import Folds, pooled
from wbcbench.boards.index import contents, level_for
from wbcbench.boards.model import Refused
from wbcbench.boards.options import Options
from wbcbench.boards.standing import only_claimed
from wbcbench.errors import ComparabilityError, UsageError, did_you_mean
from wbcbench.records.schema import ComparisonKey, Used
from wbcbench.records.store import Store
from wbcbench.spec import digest
from wbcbench.spec.trial import flat


@dataclass
class Gathered:
    """The records of the stores, and what was left out."""

    trials: dict[str, Found] = field(default_factory=dict)
    """Trial id -> its record."""
    keys: dict[str, ComparisonKey] = field(default_factory=dict)
    components: dict[str, tuple[Used, ...]] = field(default_factory=dict)
    roots: list[Path] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    """Trial id -> `ours`, `claimed` or `reproduced`, where a published board says so."""
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(stores: Sequence[Store], options: Options) -> Gathered:
    """Read the stores.

    The same trial in two stores counts once if the records' digests agree. If they do not, the trial is not
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
        found.standing |= store.standing or {}
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
    if options.reproduced:
        found.notes.append(_without_claims(found))
    quick = sum(f.entry.checked == "quick" for f in found.trials.values())
    if quick:
        found.notes.append(
            f"{_records(quick)} checked by the result's own checksum only; --verify full recomputes every metric."
        )
    return found


def _without_claims(found: Gathered) -> str:
    """Leave out the rows that others claim and that were not trained again; a note on it."""
    if not found.standing:
        return "No store states which rows were reproduced, so none was left out."
    claimed = [own for own in by_method(found.trials.values()).values() if only_claimed(own, found.standing)]
    for record in (f for own in claimed for f in own):
        del found.trials[record.entry.trial_id]
    return f"{len(claimed)} claimed rows, of which no seed was reproduced, were left out."


def _records(count: int) -> str:
    return f"{count} record{'s' * (count != 1)} {'were' if count != 1 else 'was'}"


def refusal(root: Path, name: str, reason: str) -> Refused:
    """A record that is left out. Its reason names the record, not its folder, which differs between machines."""
    path = root / "records" / name
    return Refused(record=name, reason=reason.replace(str(path), name), path=path)


def by_method(found: Iterable[Found]) -> dict[str, list[Found]]:
    """Records of each method, sorted by seed; methods sorted by id."""
    groups: dict[str, list[Found]] = {}
    for f in found:
        groups.setdefault(f.entry.method_id, []).append(f)
    return {m: sorted(groups[m], key=lambda f: (f.entry.seed, f.entry.trial_id)) for m in sorted(groups)}


Seeds = tuple[int, ...]


def board_seeds(methods: Mapping[str, Sequence[Found]], options: Options, digest: str) -> Seeds:
    """The requested seeds; else those that the board was published with; else those that most rows have.

    Args:
        methods: records of each method, sorted by seed.
        options: the user's choices.
        digest: of the board's key.
    """
    if options.seeds is not None:
        return tuple(sorted(set(options.seeds)))
    if digest in options.board_seeds:
        return options.board_seeds[digest]
    return usual_seeds(tuple(f.entry.seed for f in records) for records in methods.values())


def usual_seeds(rows: Iterable[Seeds]) -> Seeds:
    """The set of seeds that most rows have; of equally frequent sets the larger, then the lowest.

    Not the largest set: one row with an extra seed would leave all others unranked.
    """
    found = Counter(rows)
    return min(found, key=lambda s: (-found[s], -len(s), s), default=())


@dataclass
class Group:
    """The records of one board."""

    key: ComparisonKey
    digest: str
    own: list[Found]
    references: list[Found]
    """`single` records that read fewer modalities and whose key is otherwise equal."""
    folds: Folds = ()
    """Folds that a seed needs; empty: the split is one division."""
    lacking: dict[str, dict[int, Folds]] = field(default_factory=dict)
    """Method id -> seed -> folds that it lacks."""
    refused: dict[str, str] = field(default_factory=dict)
    """Trial id -> why its record, one of several folds, is not counted."""


def groups(found: Gathered, options: Options) -> list[Group]:
    """The requested boards, largest first.

    A board whose records are all references on other boards is left out, unless it is requested by its key.

    Raises:
        UsageError: an unknown key or field.
        ComparabilityError: one table was requested, but the records are not comparable.
    """
    members: dict[str, list[Found]] = {}
    for f in found.trials.values():
        members.setdefault(f.entry.key, []).append(f)
    keys = {d: found.keys[d] for d in members}
    families: dict[str, list[str]] = {}
    for d, key in keys.items():
        families.setdefault(digest(key.model_copy(update={"modalities": ()})), []).append(d)
    made = []
    for family in families.values():
        for d in family:
            mine = set(keys[d].modalities)
            smaller = [o for o in family if set(keys[o].modalities) < mine]
            larger = [o for o in family if mine < set(keys[o].modalities)]
            if larger and d not in _named(options, keys) and all(f.entry.fusion == "single" for f in members[d]):
                continue
            references = [f for o in smaller for f in members[o] if f.entry.fusion == "single"]
            made.append(Group(keys[d], d, members[d], references))
    made.sort(key=lambda g: (-len(g.own) - len(g.references), g.key.dataset, g.digest))
    chosen = [g for g in made if _wanted(g, options, keys)]
    if made and not chosen:
        raise UsageError(
            "Expected boards that match "
            + " and ".join(
                [f"--key {k}" for k in options.keys] + [f"--where {k}={v}" for k, v in options.where.items()]
            )
            + f", but none does. There are: {'; '.join(_names(made))}."
        )
    if options.together and len(chosen) > 1:
        raise mixed([(g.digest, g.key) for g in chosen])
    return [_pooled(g) for g in chosen]


def _pooled(group: Group) -> Group:
    """The group with the folds of each method and seed pooled."""
    if not any(f.entry.fold is not None for f in (*group.own, *group.references)):
        return group
    classes = len(group.key.classes)
    own = pooled(group.own, classes)
    references = pooled([f for f in group.references if f.entry.fold in own.folds], classes)
    return Group(
        group.key,
        group.digest,
        own.found,
        references.found,
        own.folds,
        own.lacking | references.lacking,
        own.refused | references.refused,
    )


ONE_TABLE = "Choose one with --key or --where, or leave out --together to get one table per key."


def mixed(keys: list[tuple[str, ComparisonKey]], remedy: str = ONE_TABLE) -> ComparabilityError:
    """The error for different keys in one table; lists the fields in which they differ."""
    (first, mine), *others = keys
    lines = [f"Expected records of one comparison key for one table, but there are {len(keys)}:"]
    for name, theirs in others[:10]:
        lines.append(f"  {first} and {name} differ in:")
        lines += [f"    {line}" for line in mine.diff(theirs)]
    if len(others) > 10:
        lines.append(f"  and {len(others) - 10} more")
    lines.append(remedy)
    return ComparabilityError("\n".join(lines))


def _names(made: Iterable[Group]) -> list[str]:
    listed = [f"{g.digest} ({g.key.dataset}, {'+'.join(g.key.modalities)})" for g in made]
    return [*listed[:20], f"and {len(listed) - 20} more"] if len(listed) > 20 else listed


def _named(options: Options, keys: Mapping[str, ComparisonKey]) -> set[str]:
    return {d for d in keys for wanted in options.keys if d.startswith(wanted)}


def _wanted(group: Group, options: Options, keys: Mapping[str, ComparisonKey]) -> bool:
    if options.keys and group.digest not in _named(options, keys):
        return False
    if not options.where:
        return True
    fields = _flat(group.key.model_dump(mode="json"))
    for name, value in options.where.items():
        if name not in fields:
            raise UsageError(
                f"A comparison key has no field '{name}'.{did_you_mean(name, fields)} It has: {', '.join(fields)}."
            )
        if fields[name] != value.replace(", ", "+").replace(",", "+"):
            return False
    return True


def _flat(document: dict[str, Any]) -> dict[str, str]:
    return {n: "+".join(map(str, v)) if isinstance(v, list) else str(v) for n, v in flat(document)}
