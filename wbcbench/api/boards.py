"""`wbcbench.leaderboard`: boards of the records in some stores."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wbcbench.api.choices import check_stores
from wbcbench.api.showing import Shown

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.boards.model import Board, Report


@dataclass(repr=False)
class Boards(Shown):
    """One board per protocol, largest first."""

    report: Report
    """Everything that is known: rows, statistics, what was left out and why."""

    @property
    def boards(self) -> tuple[Board, ...]:
        """The boards."""
        return self.report.boards

    def frame(self) -> pd.DataFrame:
        """Every board's rows at full precision: the columns of `wbcbench leaderboard --format csv`."""
        import io

        import pandas as pd

        return pd.read_csv(io.BytesIO(self.render("csv")))

    def summary(self) -> pd.DataFrame:
        """The columns of the terminal's table, of all boards."""
        import pandas as pd

        from wbcbench.boards.columns import chosen

        tables = []
        for board in self.boards:
            columns = chosen(board)
            table = {c.header: [c.cell(row, board) for row in board.rows] for c in columns.values()}
            key = board.key
            tables.append(pd.DataFrame({"board": f"{key.dataset}: {' + '.join(key.modalities)}", **table}))
        frame = pd.concat(tables, ignore_index=True).fillna("") if tables else pd.DataFrame()
        return frame.drop(columns="board") if len(tables) == 1 else frame

    def notes(self) -> list[str]:
        """How many records were left out."""
        left = len(self.report.refused)
        return [*self.report.notes, *([f"{left} records were left out: see .report.refused"] if left else [])]

    def render(self, format: str = "markdown") -> bytes:
        """The boards as terminal, markdown, plain, csv, latex, json, parquet or html. Raises `UsageError`."""
        from wbcbench.boards.formats import FORMATS, render
        from wbcbench.errors import UsageError, did_you_mean

        if format not in FORMATS:
            raise UsageError(
                f"No format is called '{format}'.{did_you_mean(format, FORMATS)} There are: {', '.join(FORMATS)}."
            )
        return render(self.report, format)

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the boards to a file, by default in the format of its suffix. Raises `UsageError`."""
        from wbcbench.records.files import atomic_write_bytes

        suffixes = {".md": "markdown", ".tex": "latex", ".txt": "plain"}
        target = Path(path)
        atomic_write_bytes(target, self.render(format or suffixes.get(target.suffix, target.suffix.lstrip("."))))
        return target


def leaderboard(
    store: str | Path | Sequence[str | Path] = "wbcbench-store",
    *,
    by: str = "macro_f1",
    seeds: Sequence[int] | None = None,
    where: Mapping[str, str] | None = None,
    key: str | Sequence[str] = (),
    together: bool = False,
    resamples: int | None = None,
    statistics: bool | None = None,
) -> Boards:
    """Boards of one store or several, as `wbcbench leaderboard` makes them.

    Args:
        store: where records are; a published board is read like a store.
        by: the metric that ranks.
        seeds: which a row needs; None: those of the method with most seeds.
        where: field of the protocol -> value, `{"dataset": "npz"}`.
        key: beginnings of board digests.
        together: one table, refused where protocols differ.
        resamples: of the bootstrap.
        statistics: None: unless there are very many records.

    Raises:
        UsageError: no such metric, key or store.
        ComparabilityError: one table was asked for, but protocols differ.
    """
    from wbcbench.boards.build import report
    from wbcbench.boards.options import Options
    from wbcbench.boards.statistics import RESAMPLES
    from wbcbench.publishing.sources import stores_at

    stores = [store] if isinstance(store, str | Path) else list(store)
    check_stores(stores)
    options = Options(
        by=by, seeds=None if seeds is None else tuple(seeds), where=dict(where or {}), together=together,
        keys=(key,) if isinstance(key, str) else tuple(key), statistics=statistics,
        resamples=RESAMPLES if resamples is None else resamples,
    )  # fmt: skip
    with ExitStack() as stack:
        boards = Boards(report(stack.enter_context(stores_at([Path(s) for s in stores])), options))
        weakref.finalize(boards, stack.pop_all().close)  # a page reads records again when it is rendered
    return boards


__all__ = ["Boards", "leaderboard"]
