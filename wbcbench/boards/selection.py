"""Which boards there are, which were asked for, and which records stand on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wbcbench.boards.gather import Found, Gathered
from wbcbench.boards.options import Options
from wbcbench.errors import ComparabilityError, UsageError, did_you_mean
from wbcbench.records.schema import ComparisonKey
from wbcbench.spec import digest
from wbcbench.spec.canonical import flat


@dataclass
class Group:
    """The records of one board."""

    key: ComparisonKey
    digest: str
    own: list[Found]
    references: list[Found]
    """`single` records that read fewer modalities and whose key is otherwise equal."""


def groups(found: Gathered, options: Options) -> list[Group]:
    """The boards asked for, largest first.

    A board of nothing but records that are references elsewhere is left out, unless it is asked for by its key.

    Raises:
        UsageError: an unknown key or field.
        ComparabilityError: one table was asked for, but the records are not comparable.
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
    return chosen


ONE_TABLE = "Choose one with --key or --where, or leave out --together to get one table per key."


def mixed(keys: list[tuple[str, ComparisonKey]], remedy: str = ONE_TABLE) -> ComparabilityError:
    """The refusal to put different keys into one table; says in which fields they differ."""
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
