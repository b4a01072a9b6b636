"""The tables of `leaderboard --per`: one metric of every row by group, by fold or by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wbcbench.boards.build import report
from wbcbench.boards.folds import pooled
from wbcbench.boards.gather import by_method, gather
from wbcbench.boards.model import PerTable
from wbcbench.boards.options import Options
from wbcbench.boards.samples import agreeing
from wbcbench.boards.shares import Of, table
from wbcbench.boards.values import Values, options_of
from wbcbench.errors import UsageError
from wbcbench.records.store import Store


def per(stores: Sequence[Store | Path | str], of: Of, options: Options) -> list[PerTable]:
    """The board's metric of every row, separately for each group, fold or class of its test cells.

    Within a group or fold, macro-F1 is over the classes that it has; for a class it is that class's F1, unless
    the board's metric is one per class. Rows that lack a fold are left out.

    Raises:
        UsageError: no board has groups, or folds.
    """
    opened = [s if isinstance(s, Store) else Store(s) for s in stores]
    fast = replace(options, statistics=False, details=False)
    boards = report(opened, fast).boards
    found = gather(opened, fast)
    tables = []
    for board in boards:
        classes = board.key.classes
        units = pooled([found.trials[s.trial_id] for r in board.rows for s in r.sources], len(classes))
        methods = {m: own for m, own in by_method(units.found).items() if m not in units.lacking}
        samples, _ = agreeing(methods, len(classes))
        values = Values.of(options_of(options, board.key), board.key)
        if samples and (one := table(board, samples, of, values)) is not None:
            tables.append(one)
    if not tables:
        what = {"group": "groups of test cells (donors, slides, plates)", "fold": "folds", "class": "records"}[of]
        raise UsageError(f"Expected a board with {what} for --per {of}, but there is none.")
    return tables


__all__ = ["per"]
