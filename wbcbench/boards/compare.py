"""Comparison of two methods: their results, and the differences of their specifications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wbcbench.boards.board_statistics import defined, lead_interval
from wbcbench.boards.build import families, over_folds, over_splits, report
from wbcbench.boards.folds import pooled
from wbcbench.boards.gather import by_method, gather, mixed, refusal
from wbcbench.boards.model import Board, Row
from wbcbench.boards.options import Options
from wbcbench.boards.pairs import Explanation, Pairs, Ratio
from wbcbench.boards.samples import Sample, agreeing
from wbcbench.boards.statistics.hypothesis_tests import ALPHA
from wbcbench.boards.values import Values, options_of
from wbcbench.errors import ComparabilityError, UsageError, did_you_mean
from wbcbench.records import verify as checks
from wbcbench.records.store import Store
from wbcbench.spec.trial import without_draws


def spec_differences(a: Row, b: Row) -> Iterator[str]:
    """Lines `field: a's != b's`; teachers are identified by their modalities and components."""
    paths = [row.sources[0].path for row in (a, b)]
    assert all(paths)
    mine, theirs = (checks.read_trial(p).method.model_dump(mode="json") for p in paths if p is not None)
    mine, theirs = without_draws(mine), without_draws(theirs)
    for method in (mine, theirs):
        method["teachers"] = [
            {"reads": t["protocol"]["modalities"], "seed": t.get("seed", "the student's"),
             **{k: t["method"][k] for k in ("fusion", "backbone", "recipe")}}
            for t in method["teachers"]
        ]  # fmt: skip
    if a.modalities != b.modalities:
        yield f"modalities: {'+'.join(a.modalities)} != {'+'.join(b.modalities)}"
    yield from _differing("", mine, theirs)


def _differing(path: str, mine: Any, theirs: Any) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in dict.fromkeys([*mine, *theirs]):
            yield from _differing(f"{path}.{name}" if path else name, mine.get(name), theirs.get(name))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            yield from _differing(f"{path}[{i}]", x, y)
    elif mine != theirs:
        yield f"{path}: {_short(mine)} != {_short(theirs)}"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    if isinstance(value, dict) and "backbone" in value:
        return f"{_short(value['backbone'])} on {'+'.join(value['reads'])}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]" if value else "none"
    return "none" if value is None else str(value)


def explain(stores: Sequence[Store | Path | str], a: str, b: str, options: Options) -> Explanation:
    """Compare two methods of one board.

    Args:
        stores: where their records are.
        a: a row's name, the beginning of a method's or a trial's id, or its fusion where only one row has that.
        b: the same.
        options: as for boards; `options.by` is the compared metric.

    Raises:
        UsageError: no such method, or several.
        ComparabilityError: they are on different boards, or share no valid seed.

    Records that a board would refuse are left out and listed. If boards differ only in the split, the largest is
    used, and `Explanation.splits` has the test over all of them.
    """
    fast = replace(options, statistics=False, details=False)
    opened = [s if isinstance(s, Store) else Store(s) for s in stores]
    boards = report(opened, fast).boards
    board, left, right = _find(boards, a, b)
    found = gather(opened, fast)
    units = pooled([found.trials[s.trial_id] for r in board.rows for s in r.sources], len(board.key.classes))
    records = {m: own for m, own in by_method(units.found).items() if m not in units.lacking}
    samples, bad = agreeing(records, len(board.key.classes))
    bad |= units.refused
    refused = {t: refusal(found.trials[t].root, t, reason).reason for t, reason in sorted(bad.items())}
    seeds = _shared_seeds(left, right, samples, refused)
    options = options_of(options, board.key)
    pairs = Pairs(board, samples, seeds, options, Values.of(options, board.key))
    if not pairs.clusters.enough:
        raise ComparabilityError(f"Expected test cells of more groups, but: {pairs.clusters.notes[-1]}")
    both = {left.method_id, right.method_id}
    others = [r for r in board.rows if r.status == "ranked" and r.method_id in pairs.samples.keys() - both]
    rows = sorted([left, right, *others], key=lambda r: r.method_id)
    every = pairs.contrasts(rows)
    i, j = rows.index(left), rows.index(right)
    u = every.pair(i, j)
    low, high = lead_interval(u, options)
    p_level = u.equivalent(options.margin)
    return Explanation(
        board=board.digest,
        by=options.by,
        a=left.name,
        b=right.name,
        a_id=left.method_id,
        b_id=right.method_id,
        seeds=tuple(seeds),
        a_mean=round(pairs.mean(left), 9),
        b_mean=round(pairs.mean(right), 9),
        lead=round(u.value, 9),
        low=round(low, 9),
        high=round(high, 9),
        p=defined(u.p),
        comparisons=len(rows) * (len(rows) - 1) // 2,
        p_holm=defined(float(every.p_holm()[i, j])),
        beyond_noise=u.p < ALPHA,
        margin=options.margin,
        p_level=defined(p_level),
        level=p_level < ALPHA,
        chance=defined(u.chance),
        detectable=defined(u.detectable()),
        mcnemar=tuple(pairs.mcnemar(left, right)),
        classes=tuple(pairs.classes(left, right)),
        cost=tuple(_ratios(left, right)),
        differences=tuple(spec_differences(left, right)),
        splits=over_folds(board, left, right, options.by)
        if board.folds
        else over_splits(_everywhere(opened, boards, fast), board, left, right, options.by),
        refused=tuple(refused.values()),
    )


def _shared_seeds(
    a: Row, b: Row, samples: Mapping[str, Sequence[Sample]], refused: Mapping[str, str]
) -> list[int]:
    """Seeds for which both rows have valid predictions."""
    there = [{s.seed for s in samples.get(r.method_id, ())} for r in (a, b)]
    if seeds := sorted(there[0] & there[1]):
        return seeds
    own = [refused[s.trial_id] for r in (a, b) for s in r.sources if s.trial_id in refused]
    raise ComparabilityError(
        f"Expected {a.name} and {b.name} to share a seed, but they have {a.seeds} and {b.seeds}"
        + (f", and not all of it counts: {' '.join(own)}" if own else ". Run the missing ones.")
    )


def _everywhere(stores: Sequence[Store], asked: Sequence[Board], options: Options) -> list[Board]:
    """The requested boards, and those that --key and --where leave out."""
    if not options.keys and not options.where:
        return list(asked)
    every = report(stores, replace(options, keys=(), where={})).boards
    return list({b.digest: b for b in (*every, *asked)}.values())


def _find(boards: Sequence[Board], a: str, b: str) -> tuple[Board, Row, Row]:
    hits = [(board, _matches(board, a), _matches(board, b)) for board in boards]
    shared = [(board, x, y) for board, x, y in hits if x and y]
    for name, which in ((a, 1), (b, 2)):
        if not any(hit[which] for hit in hits):
            names = {r.name for board in boards for r in board.rows}
            raise UsageError(
                f"No row is called '{name}'.{did_you_mean(name, names)} Give a name, or the beginning of a "
                f"method's or trial's id. There are: {'; '.join(sorted(names)[:30])}."
            )
    if not shared:
        first = next(board for board, x, _ in hits if x)
        second = next(board for board, _, y in hits if y)
        near = [r.name for r in first.rows if r.name.startswith(b)][:10]
        beside = f" In the table of '{a}': {'; '.join(near)}." if near else ""
        remedy = f"Only rows of one table can be compared.{beside}"
        raise mixed([(first.digest, first.key), (second.digest, second.key)], remedy)
    # boards that differ only in the split are treated as one; the largest comes first
    if len(shared) > 1 and [len(own) for own in families([board for board, _, _ in shared])] != [len(shared)]:
        keys = ", ".join(f"{board.digest} ({board.name})" for board, _, _ in shared)
        raise UsageError(f"'{a}' and '{b}' are both on several boards: {keys}. Choose one with --key.")
    board, x, y = shared[0]
    for name, rows in ((a, x), (b, y)):
        if len(rows) > 1:
            raise UsageError(
                f"'{name}' could be {'; '.join(f'{r.name} (id {r.method_id})' for r in rows)}. Give an id."
            )
    if x[0].method_id == y[0].method_id:
        raise UsageError(f"Expected two methods, but '{a}' and '{b}' are both {x[0].name}.")
    return board, x[0], y[0]


def _matches(board: Board, text: str) -> list[Row]:
    by_id = [
        r for r in board.rows
        if len(text) >= 4
        and (r.method_id.startswith(text.lstrip("#")) or any(s.trial_id.startswith(text) for s in r.sources))
    ]  # fmt: skip
    exact = [r for r in board.rows if r.name == text]
    # `a + b (weight=1)` and `a + b #1234` are names made unique; without the suffix they may be ambiguous
    short = [r for r in board.rows if text == r.name.split(" #")[0].split(" (")[0]]
    return by_id or exact or short or [r for r in board.rows if text == r.method]


def _ratios(a: Row, b: Row) -> Iterator[Ratio]:
    pairs: list[tuple[str, float | None, float | None]] = [
        ("parameters", a.params, b.params),
        ("MACs", a.macs, b.macs),
        ("training time", a.train_seconds, b.train_seconds),
    ]
    same = (a.timing.device, a.timing.threads) == (b.timing.device, b.timing.threads)
    if same:
        pairs.append(("latency", a.timing.latency_ms, b.timing.latency_ms))
    for what, x, y in pairs:
        if x is not None and y:
            yield Ratio(what=what, a=float(x), b=float(y), ratio=round(x / y, 6))
