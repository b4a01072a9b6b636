"""Builds boards from stores, and comparisons over several boards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.boards.board import make_board
from wbcbench.boards.gather import gather, groups, refusal
from wbcbench.boards.model import Across, Board, Improvement, Report, Row
from wbcbench.boards.names import matched
from wbcbench.boards.options import LARGE, Options
from wbcbench.boards.rows import RowMaker, searches
from wbcbench.boards.statistics import (
    corrected_resampled_t,
    critical_difference,
    friedman,
    nemenyi_groups,
    probability_of_improvement,
)
from wbcbench.errors import RecordError
from wbcbench.records import verify as checks
from wbcbench.records.store import Store
from wbcbench.records.titles import read_titles, title_of
from wbcbench.spec import digest
from wbcbench.spec.trial import without_draws


def across(boards: Sequence[Board], by: str) -> list[Across]:
    """One comparison of the methods that are ranked on every data set; empty if there are too few.

    Needs two data sets and three methods; `matching` decides which rows are the same method. Of several boards of
    one data set the largest is used.
    """
    firsts: dict[str, Board] = {}
    for board in boards:
        firsts.setdefault(board.key.fingerprint, board)
    tables = list(firsts.values())
    if len(tables) < 2:
        return []
    methods, notes = matched([_ranked(b) for b in tables])
    if len(methods) < 3:
        return []
    every = list(methods)
    sign = 1.0 if tables[0].higher_is_better else -1.0
    scores = [[sign * _mean(methods[m][i], by) for m in every] for i in range(len(tables))]
    found = friedman(scores)
    cd = critical_difference(len(every), len(tables))
    order = sorted(range(len(every)), key=lambda i: (found.mean_ranks[i], every[i]))
    ranks = [found.mean_ranks[i] for i in order]
    names = [every[i] for i in order]
    runs = {name: [_runs(row, by, sign) for row in methods[name]] for name in names}
    improvement = []
    for a, b in combinations(names, 2):
        value, low, high = probability_of_improvement(runs[a], runs[b])
        improvement.append(
            Improvement(a=a, b=b, probability=round(value, 9), low=round(low, 9), high=round(high, 9))
        )
    return [
        Across(
            methods=tuple(names),
            boards=tuple(b.digest for b in tables),
            by=by,
            mean_ranks=tuple(ranks),
            friedman_chi2=round(found.chi2, 9),
            friedman_p=round(found.p, 9),
            iman_davenport_p=round(found.f_p, 9),
            critical_difference=round(cd, 9),
            groups=tuple(tuple(names[i] for i in group) for group in nemenyi_groups(ranks, cd)),
            improvement=tuple(improvement),
            notes=notes,
        )
    ]


def _ranked(board: Board) -> list[Row]:
    return [r for r in board.rows if r.status == "ranked" and r.metrics[board.by].mean is not None]


def _mean(row: Row, by: str) -> float:
    mean = row.metrics[by].mean
    assert mean is not None
    return mean


def _runs(row: Row, by: str, sign: float) -> list[float]:
    return [sign * v for s in row.sources if (v := s.metrics[by]) is not None]


def families(boards: Sequence[Board]) -> list[list[Board]]:
    """Groups of two or more boards whose keys differ only in the split; in the order of the boards."""
    found: dict[str, list[Board]] = {}
    for board in boards:
        found.setdefault(digest(board.key.model_copy(update={"split": ""})), []).append(board)
    return [own for own in found.values() if len(own) > 1]


def over_splits(boards: Sequence[Board], board: Board, a: Row, b: Row, by: str) -> str | None:
    """Nadeau and Bengio's test of two rows of `board`, as a sentence; None if there is only one split.

    On another split a row is the same method if its specification is the same, including teachers, except for the
    split that they were trained on. Each split gives one difference, of means over the same seeds; splits on which
    a row lacks one of the seeds are left out.
    """
    siblings = next((own for own in families(boards) if board.digest in {o.digest for o in own}), [])
    names = _makeup(a), _makeup(b)
    pairs = []
    for other in siblings:
        rows = {name: [r for r in other.rows if _makeup(r) == name] for name in names}
        if all(len(own) == 1 for own in rows.values()):
            pairs.append((rows[names[0]][0], rows[names[1]][0]))
    shared = [tuple(sorted(_values(x, by).keys() & _values(y, by).keys())) for x, y in pairs]
    often = Counter(s for s in shared if s)
    if len(pairs) < 2 or not often:
        return None
    seeds = max(often, key=lambda s: (often[s], len(s), s))
    used = [pair for pair, there in zip(pairs, shared, strict=True) if set(seeds) <= set(there)]
    cells = {_test_cells(x) for x, _ in used}
    if len(used) < 2 or len(cells) < 2:
        return None if len(used) < 2 else (
            f"There are {len(used)} splits of the same data, but with the same test cells: nothing was resampled "
            "that a test over splits could be about."
        )  # fmt: skip
    sign = 1.0 if board.higher_is_better else -1.0
    leads = [[sign * (_values(x, by)[s] - _values(y, by)[s]) for s in seeds] for x, y in used]
    left = len(pairs) - len(used)
    said = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return _resampled(f"Over {len(used)} splits of the same data, {said}", leads, _test_to_train(used[0][0])) + (
        f" Left out: {left} split{'s' * (left > 1)} without these seeds." if left else ""
    )


def over_folds(board: Board, a: Row, b: Row, by: str) -> str | None:
    """Nadeau and Bengio's test of two rows of a board over its folds, as a sentence; None if it has too few.

    Each fold gives one difference, of means over the seeds that both rows have.
    """
    seeds = sorted(set(a.seeds) & set(b.seeds))
    known = [{(s.seed, s.fold): s.metrics[by] for s in row.sources} for row in (a, b)]
    sign = 1.0 if board.higher_is_better else -1.0
    leads = []
    for fold in board.folds:
        mine, theirs = ([v for s in seeds if (v := found.get((s, fold))) is not None] for found in known)
        if len(mine) == len(theirs) == len(seeds):
            leads.append([sign * (x - y) for x, y in zip(mine, theirs, strict=True)])
    if len(leads) < 2:
        return None
    split = checks.read_trial(_path(a)).protocol.split
    tested = split.test if split.draws_test else 1 / (split.folds or _groups(board, a))
    return _resampled(f"Over {len(leads)} folds", leads, tested / (1 - tested - split.val))


def _groups(board: Board, row: Row) -> int:
    """Number of groups of the data set, each of which is a fold, also where the board has only some of them."""
    highest = max(int(checks.read_predictions(s.path)["test_groups"].max()) for s in row.sources if s.path)
    return max(len(checks.read_result(_path(row)).group_names), highest + 1, len(board.folds))


def _resampled(over: str, leads: Sequence[Sequence[float]], test_to_train: float) -> str:
    u = corrected_resampled_t(leads, test_to_train)
    low, high = u.interval()
    return (
        f"{over}: lead {u.value:+.4f} ({low:+.4f} to {high:+.4f}), corrected resampled t-test (Nadeau and Bengio) "
        f"p = {u.p:.3g}. On another split, with another seed, A beats B with a probability of {u.chance:.2f}."
    )


def with_hints(boards: Sequence[Board]) -> list[Board]:
    """The boards, each with a note on boards of the same data with another split, and how to compare them."""
    found = {b.digest: b for b in boards}
    for own in families(boards):
        for b in own if any(len(x.rows) > 1 for x in own) else ():
            others = ", ".join(x.digest for x in own if x is not b)
            note = (
                f"One of {len(own)} boards that differ in nothing but the split (others: {others}): "
                "`wbcbench leaderboard compare A B` tests two rows over all of them (Nadeau and Bengio)."
            )
            found[b.digest] = b.model_copy(update={"notes": (*b.notes, note)})
    return list(found.values())


def _makeup(row: Row) -> str:
    """Equal for rows with the same specification apart from the split; the method's id if it cannot be read."""
    try:
        method = checks.read_trial(_path(row)).method.model_dump(mode="json")
    except RecordError:
        return row.method_id
    return digest([row.modalities, _without_split(without_draws(method))])


def _without_split(method: dict[str, Any]) -> dict[str, Any]:
    teachers = [
        {**t, "protocol": {k: v for k, v in t["protocol"].items() if k != "split"},
         "method": _without_split(t["method"])}
        for t in method["teachers"]
    ]  # fmt: skip
    return {**method, "teachers": teachers}


def _values(row: Row, by: str) -> dict[int, float]:
    return {s.seed: v for s in row.sources if (v := s.metrics[by]) is not None}


def _test_cells(row: Row) -> bytes:
    return bytes(np.sort(checks.read_predictions(_path(row))["test_cells"]).tobytes())


def _test_to_train(row: Row) -> float:
    """Test cells per training cell, according to the protocol's split."""
    split = checks.read_trial(_path(row)).protocol.split
    return split.test / (1 - split.test - split.val)


def _path(row: Row) -> Path:
    path = row.sources[0].path
    assert path is not None
    return path


_DEFAULT = Options()


def build(stores: Sequence[Store | Path | str], options: Options = _DEFAULT) -> list[Board]:
    """Boards of the records in some stores, largest first. See `report` for what was left out.

    Raises:
        UsageError: a key or field that no record has.
        ComparabilityError: one table was requested, but keys differ.
    """
    return list(report(stores, options).boards)


def report(stores: Sequence[Store | Path | str], options: Options = _DEFAULT) -> Report:
    """Boards, comparisons across them, and what was left out; raises what `build` raises."""
    found = gather([s if isinstance(s, Store) else Store(s) for s in stores], options)
    chosen = groups(found, options)
    budgets, unread = searches(found.roots)
    maker = RowMaker(found, budgets)
    size = sum(len(g.own) + len(g.references) for g in chosen)
    notes = [*found.notes, *unread]
    judged = options.statistics if options.statistics is not None else size <= LARGE
    detailed = options.details if options.details is not None else size <= LARGE
    if size > LARGE and options.statistics is None:
        notes.append(
            f"The boards have {size} records, more than {LARGE}: no intervals, gains or ties were computed. "
            "--key for some boards, or --statistics for all, has them."
        )
    titles: dict[str, str] = {}
    for root in reversed(found.roots):
        titles |= read_titles(root)
    boards, refused = [], list(found.refused)
    for group in chosen:
        board, bad = make_board(group, maker, options, statistics=judged, with_details=detailed)
        refused += [refusal(found.trials[t].root, t, reason) for t, reason in sorted(bad.items())]
        if board.rows:
            boards.append(board.model_copy(update={"title": title_of(board.key, titles)}))
    boards = with_hints(boards)
    return Report(
        boards=tuple(boards),
        across=tuple(across(boards, options.by)),
        refused=tuple(dict.fromkeys(refused)),
        notes=tuple(notes),
    )
