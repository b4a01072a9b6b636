"""The average effect of one part of a method, all else equal: fusions, distillers, backbones or policies.

A board of fusions x distillers x seeds is a factorial experiment. Comparing its rows pair by pair is of little
use, since there are thousands of pairs. An effect averages the paired difference between two levels (`gmu` and
`early`, for example) over every *block* in which both were run: the same distiller, teachers, backbone, policies
and recipe. Cells and seeds are treated as for a single pair (`statistics.uncertainty`), with means over blocks
instead of methods; p-values are corrected for all levels of the board (Holm). An average hides interactions:
`ahead` counts the blocks in which the level leads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from wbcbench.boards.board_statistics import BoardStatistics, defined, lead_interval
from wbcbench.boards.entries import Found
from wbcbench.boards.gather import Group, board_seeds, by_method, gather, groups
from wbcbench.boards.names import distinct
from wbcbench.boards.options import Options
from wbcbench.boards.rows import searches
from wbcbench.boards.statistics import holm
from wbcbench.boards.statistics.hypothesis_tests import ALPHA
from wbcbench.boards.values import Values, options_of
from wbcbench.errors import ComparabilityError, UsageError, did_you_mean
from wbcbench.records import verify as checks
from wbcbench.records.schema import ComparisonKey, Strict
from wbcbench.records.store import Store
from wbcbench.spec.request import STUDENT
from wbcbench.spec.trial import ComponentSpec, Method, without_draws

Factor = Literal["fusion", "kd", "backbone", "policy"]
FACTORS: tuple[Factor, ...] = get_args(Factor)
USUAL: Mapping[Factor, str] = {"fusion": "early", "kd": "none", "policy": "none"}
"""The level that others are compared with by default."""


class Effect(Strict):
    """One level of a factor compared with another."""

    level: str
    lead: float
    """Mean over blocks and seeds; positive means better."""
    low: float
    high: float
    """95 % interval."""
    p: float | None
    p_holm: float | None
    """Over the levels of this board. Both are None with one seed."""
    beyond_noise: bool
    """After Holm's correction."""
    p_level: float | None
    """That the lead is `Effects.margin` or more, either way: two one-sided tests, Holm over the levels."""
    level_within: bool
    """p_level < 0.05: shown to differ by less."""
    blocks: int
    ahead: int
    """Number of blocks in which the mean over seeds is ahead."""
    macs: float | None
    """MACs of the level as a multiple of the other's, mean over blocks."""


class Effects(Strict):
    """Every level of a factor on one board, largest lead first."""

    board: str
    key: ComparisonKey
    by: str
    of: Factor
    against: str
    margin: float
    seeds: tuple[int, ...]
    effects: tuple[Effect, ...]
    alone: tuple[str, ...]
    """Levels that share no block with `against`."""
    winners: tuple[str, ...]
    """Methods that are left out because a search chose their parameters; the others had one try each."""


def effects(
    stores: Sequence[Store | Path | str], of: Factor, options: Options, against: str | None = None
) -> list[Effects]:
    """Effects on every board that has at least two levels of the factor.

    Args:
        stores: where the records are.
        of: the factor that varies.
        options: as for boards; only methods with all seeds of the board count. Winners of searches had several
            tries, so they are left out and listed in `winners`, unless there are no others.
        against: the level that others are compared with; default `USUAL`. If a board has a component with
            several settings, its bare name means the setting that most blocks have.

    Raises:
        UsageError: no board has that level.
        ComparabilityError: a board's test cells are of too few groups.
    """
    found = gather([s if isinstance(s, Store) else Store(s) for s in stores], options)
    won = searches(found.roots)[0].keys()
    wanted = against or USUAL.get(of)
    made, seen = [], set[str]()
    for group in groups(found, options):
        seeds = board_seeds(by_method(group.own), options, group.digest)
        methods = {
            m: [f for f in records if f.entry.seed in seeds]
            for m, records in by_method(group.own).items()
            if set(seeds) <= {f.entry.seed for f in records} and m not in group.lacking
        }
        untuned = {m: own for m, own in methods.items() if not any(f.entry.trial_id in won for f in own)}
        winners = sorted({methods[m][0].entry.label for m in methods.keys() - untuned.keys()} if untuned else ())
        methods = untuned or methods
        levels = _levels(methods, of)
        seen |= set(levels)
        base = _meant(wanted, levels)
        if base is not None and len(levels) > 1:
            made.append(_judged(group, seeds, methods, levels, of, base, options, tuple(winners)))
    if not made:
        if not seen:
            asked = f" {', '.join(map(str, options.seeds))}" if options.seeds else ""
            raise UsageError(f"Expected methods with all seeds{asked}, but there is none.")
        if wanted is not None and _meant(wanted, {level: {} for level in seen}) in seen:
            raise UsageError(f"Expected a board with two {of}s or more, but '{wanted}' is the only one.")
        hint = did_you_mean(wanted, seen) if wanted else ""
        raise UsageError(
            f"Expected --against one of the levels of {of} ({', '.join(sorted(seen))}), but "
            f"got {wanted or 'none'}.{hint}"
        )
    return made


def _meant(name: str | None, levels: Mapping[str, Mapping[str, str]]) -> str | None:
    if name is None or name in levels:
        return name
    often = sorted((-len(blocks), level) for level, blocks in levels.items() if level.startswith(f"{name} ("))
    return often[0][1] if often else None


def _judged(
    group: Group, seeds: tuple[int, ...], methods: dict[str, list[Found]], levels: dict[str, dict[str, str]],
    of: Factor, against: str, options: Options, winners: tuple[str, ...],
) -> Effects:  # fmt: skip
    options = options_of(options, group.key)
    values = Values.of(options, group.key)
    stats = BoardStatistics(methods, options, group.own[0].root, values, (options.by,))
    if not stats.enough:
        raise ComparabilityError(f"Expected test cells of more groups, but: {stats.kept.notes[-1]}")
    base = levels[against]
    sign = 1 if options.higher else -1
    known, alone = [], []
    for level, blocks in levels.items():
        shared = sorted(set(blocks) & set(base))
        if level == against:
            continue
        if not shared:
            alone.append(level)
            continue
        able = [b for b in levels.values() if set(shared) <= set(b)]
        u = stats.pooled(
            [blocks[s] for s in shared], [base[s] for s in shared], [[b[s] for s in shared] for b in able]
        )
        u = u._replace(value=sign * u.value)
        ahead = sum(sign * stats.pair(blocks[s], base[s]).value > 0 for s in shared)
        ratios = list(_macs(methods, blocks, base, shared))
        known.append((level, u, len(shared), ahead, sum(ratios) / len(ratios) if ratios else None))
    adjusted = holm([u.p for _, u, *_ in known])
    levels_p = holm([u.equivalent(options.margin) for _, u, *_ in known])
    rows = []
    for (level, u, blocks_shared, ahead, macs), p_holm, p_level in zip(known, adjusted, levels_p, strict=True):
        low, high = lead_interval(u, options)
        rows.append(
            Effect(
                level=level, lead=round(u.value, 9), low=round(low, 9), high=round(high, 9), p=defined(u.p),
                p_holm=defined(p_holm), beyond_noise=p_holm < ALPHA,
                p_level=defined(p_level), level_within=p_level < ALPHA, blocks=blocks_shared, ahead=ahead,
                macs=None if macs is None else round(macs, 4),
            )
        )  # fmt: skip
    stats.save()
    return Effects(
        board=group.digest, key=group.key, by=options.by, of=of, against=against, margin=options.margin,
        seeds=seeds,
        effects=tuple(sorted(rows, key=lambda e: (-e.lead, e.level))), alone=tuple(sorted(alone)),
        winners=winners,
    )  # fmt: skip


def _levels(methods: Mapping[str, Sequence[Found]], of: Factor) -> dict[str, dict[str, str]]:
    """Level -> block -> method id."""
    specs = {m: checks.read_trial(records[0].path).method for m, records in methods.items()}
    parts = {m: _part(spec, of) for m, spec in specs.items()}
    names = _names(parts.values())
    levels: dict[str, dict[str, str]] = {}
    for m, spec in specs.items():
        block = without_draws(spec.model_dump(mode="json"))
        for field in _FIELDS[of]:
            block.pop(field, None)
        levels.setdefault(names[_mark(parts[m])], {})[json.dumps(block, sort_keys=True)] = m
    return levels


_FIELDS: Mapping[Factor, tuple[str, ...]] = {
    "fusion": ("fusion",),
    "backbone": ("backbone",),
    "policy": ("policies",),
    "kd": (
        "distillers",
        "routing",
        "teachers",
        "outside",
        "teacher_seeds",
        "teacher_views",
    ),  # without distillation there are no teachers and no routing
}


def _part(method: Method, of: Factor) -> tuple[Any, ...]:
    """The components of the level, and for distillation the teachers and the routing."""
    if of == "fusion":
        return (method.fusion,)
    if of == "backbone":
        if isinstance(method.backbone, ComponentSpec):
            return (method.backbone,)
        params = {f"{m}.{k}": v for m, b in method.backbone.items() for k, v in b.params.items()}
        return (ComponentSpec(name=method.backbone_name, params=params),)
    if of == "policy":
        return method.policies
    if not method.distillers:
        return ()
    taught = {
        "teachers": "+".join("+".join(t.protocol.modalities) for t in method.teachers),
        "teacher": "+".join([*(_backbone(t.method) for t in method.teachers), *(t.name for t in method.outside)]),
        "routing": str(method.routing or ""),
        "teacher seeds": STUDENT if method.teacher_seeds == STUDENT else "fixed",
        "teacher views": method.teacher_views,
        "ids": "+".join([*(t.id[:6] for t in method.teachers), *(t.digest[:6] for t in method.outside)]),
    }
    return (*method.distillers, taught)


def _backbone(method: Method) -> str:
    return str(method.backbone) if isinstance(method.backbone, ComponentSpec) else f"({method.backbone_name})"


def _mark(part: Iterable[Any]) -> str:
    return json.dumps(
        [c.model_dump(mode="json") if isinstance(c, ComponentSpec) else c for c in part], sort_keys=True
    )


def _names(parts: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Mark -> readable name, with parameters and teachers only where names would otherwise be equal."""
    unique = {_mark(p): p for p in parts}
    twins: dict[str, list[str]] = {}
    for mark, part in unique.items():
        twins.setdefault("+".join(c.name for c in part if isinstance(c, ComponentSpec)) or "none", []).append(mark)
    names: dict[str, str] = {}
    for name, marks in twins.items():
        added = distinct([dict(_settings(unique[m])) for m in marks])
        names |= {
            m: name + (text or (f" #{i}" if i else ""))
            for i, (m, text) in enumerate(zip(marks, added, strict=True))
        }
    return names


def _settings(part: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for c in part:
        if isinstance(c, ComponentSpec):
            for k, v in c.params.items():
                yield f"{c.name}.{k}", f"{v:g}" if isinstance(v, float) else str(v)
        else:
            yield from c.items()


def _macs(
    methods: Mapping[str, Sequence[Found]], mine: Mapping[str, str], base: Mapping[str, str], blocks: Iterable[str]
) -> Iterator[float]:
    for block in blocks:
        a, b = (methods[m][0].entry.macs for m in (mine[block], base[block]))
        if a and b:
            yield a / b


__all__ = ["FACTORS", "USUAL", "Effect", "Effects", "Factor", "effects"]
