"""From stores to boards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wbcbench.boards.across import across
from wbcbench.boards.board import make_board
from wbcbench.boards.extras import searches
from wbcbench.boards.gather import gather, refusal
from wbcbench.boards.model import Board, Report
from wbcbench.boards.options import LARGE, Options
from wbcbench.boards.over_splits import with_hints
from wbcbench.boards.rows import RowMaker
from wbcbench.boards.selection import groups
from wbcbench.records.store import Store

_DEFAULT = Options()


def build(stores: Sequence[Store | Path | str], options: Options = _DEFAULT) -> list[Board]:
    """Boards of the records in some stores, largest first. See `report` for what was left out.

    Raises:
        UsageError: a key or field that no record has.
        ComparabilityError: one table was asked for, but keys differ.
    """
    return list(report(stores, options).boards)


def report(stores: Sequence[Store | Path | str], options: Options = _DEFAULT) -> Report:
    """Boards, comparisons across them, and what was left out; raises as `build` does."""
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
    boards, refused = [], list(found.refused)
    for group in chosen:
        board, bad = make_board(group, maker, options, statistics=judged, with_details=detailed)
        refused += [refusal(found.trials[t].root, t, reason) for t, reason in sorted(bad.items())]
        if board.rows:
            boards.append(board)
    boards = with_hints(boards)
    return Report(
        boards=tuple(boards),
        across=tuple(across(boards, options.by)),
        refused=tuple(dict.fromkeys(refused)),
        notes=tuple(notes),
    )
