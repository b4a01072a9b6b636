"""The same methods on several data sets: Friedman, Nemenyi, probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from wbcbench.boards.matching import matched
from wbcbench.boards.model import Across, Board, Improvement, Row
from wbcbench.boards.statistics import (
    critical_difference,
    friedman,
    nemenyi_groups,
    probability_of_improvement,
)


def across(boards: Sequence[Board], by: str) -> list[Across]:
    """One comparison of the methods that are ranked on every data set; empty where they are too few.

    Needs two data sets and three methods; `matching` says which rows are one method. Of several boards of one data
    set the largest counts.
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
