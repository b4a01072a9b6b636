"""The same methods on several data sets: Friedman, Nemenyi, probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from wbcbench.leaderboard.model import Across, Board, Improvement, Row
from wbcbench.leaderboard.statistics import (
    critical_difference,
    friedman,
    nemenyi_groups,
    probability_of_improvement,
)


def across(boards: Sequence[Board], by: str) -> list[Across]:
    """One comparison of the methods that are ranked on every data set; empty where they are too few.

    Methods are matched by what they are made of, since a method's id holds its protocol. Needs two data sets and
    three methods. Of several boards of one data set the largest counts.
    """
    firsts: dict[str, Board] = {}
    for board in boards:
        firsts.setdefault(board.key.fingerprint, board)
    tables = [(b, _ranked(b)) for b in firsts.values()]
    if len(tables) < 2:
        return []
    common = [m for m in tables[0][1] if all(m in rows for _, rows in tables)]
    if len(common) < 3:
        return []
    sign = 1.0 if tables[0][0].higher_is_better else -1.0
    scores = [[sign * _mean(rows[m], by) for m in common] for _, rows in tables]
    found = friedman(scores)
    cd = critical_difference(len(common), len(tables))
    order = sorted(range(len(common)), key=lambda i: (found.mean_ranks[i], common[i]))
    ranks = [found.mean_ranks[i] for i in order]
    names = [_title(tables[0][1][common[i]]) for i in order]
    runs = {i: [_runs(rows[common[i]], by, sign) for _, rows in tables] for i in order}
    improvement = []
    for (x, i), (y, j) in combinations(enumerate(order), 2):
        value, low, high = probability_of_improvement(runs[i], runs[j])
        improvement.append(
            Improvement(
                a=names[x], b=names[y], probability=round(value, 9), low=round(low, 9), high=round(high, 9)
            )
        )
    return [
        Across(
            methods=tuple(names),
            boards=tuple(b.digest for b, _ in tables),
            by=by,
            mean_ranks=tuple(ranks),
            friedman_chi2=round(found.chi2, 9),
            friedman_p=round(found.p, 9),
            iman_davenport_p=round(found.f_p, 9),
            critical_difference=round(cd, 9),
            groups=tuple(tuple(names[i] for i in group) for group in nemenyi_groups(ranks, cd)),
            improvement=tuple(improvement),
        )
    ]


Makeup = tuple[str, str, str, tuple[str, ...], tuple[str, ...], str]


def _ranked(board: Board) -> dict[Makeup, Row]:
    """Ranked rows by what they are made of; two rows that differ in parameters only cannot be matched."""
    rows: dict[Makeup, list[Row]] = {}
    for r in board.rows:
        if r.status == "ranked" and r.metrics[board.by].mean is not None:
            rows.setdefault(_makeup(r), []).append(r)
    return {m: own[0] for m, own in rows.items() if len(own) == 1}


def _makeup(r: Row) -> Makeup:
    return r.fusion, r.kd, r.backbone, r.policies, r.teacher_backbones, r.routing or ""


def _title(r: Row) -> str:
    return " + ".join([r.fusion, *([r.kd] if r.kd != "none" else []), *r.policies]) + f" ({r.backbone})"


def _mean(row: Row, by: str) -> float:
    mean = row.metrics[by].mean
    assert mean is not None
    return mean


def _runs(row: Row, by: str, sign: float) -> list[float]:
    return [sign * v for s in row.sources if (v := s.metrics[by]) is not None]
