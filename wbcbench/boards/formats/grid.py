"""A board as a grid of escaped text, which the formats for people lay out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rich.cells import cell_len

from wbcbench.boards.columns import FIRST_TO_GO, Column, chosen
from wbcbench.boards.formats import View
from wbcbench.boards.model import Board

T = TypeVar("T")


@dataclass(frozen=True)
class Grid:
    """Headers and cells as text."""

    names: list[str]
    columns: list[Column]
    headers: list[str]
    rows: list[list[str]]

    @property
    def width(self) -> int:
        """Characters that a line takes, with two between columns."""
        return sum(self.widths) + 2 * (len(self.widths) - 1)

    @property
    def widths(self) -> list[int]:
        """Of each column."""
        return [max(map(cell_len, column)) for column in zip(self.headers, *self.rows, strict=True)]

    @property
    def align(self) -> list[str]:
        """`right` or `left` per column."""
        return ["right" if c.right else "left" for c in self.columns]


def grid(board: Board, view: View, escape: Callable[[str], str]) -> Grid:
    """The board's cells, every one escaped."""
    picked = chosen(board, view.columns, view.wide)
    columns = list(picked.values())
    rows = [[escape(c.cell(row, board)) for c in columns] for row in board.rows]
    return Grid(list(picked), columns, [escape(c.header) for c in columns], rows)


def fitted(full: Grid, board: Board, width: int) -> tuple[Grid, list[str]]:
    """The grid without the columns that a width of so many characters has no room for, and their headers.

    Columns go in the order of `FIRST_TO_GO`; the others stay however narrow it is.
    """
    keep = dict(zip(full.names, full.widths, strict=True))
    # a long name may stand on two lines
    keep["method"] = min(keep["method"], max(24, int(0.42 * width)))
    for name in (n.format(by=board.by) for n in FIRST_TO_GO):
        if sum(keep.values()) + 2 * (len(keep) - 1) <= width:
            break
        keep.pop(name, None)
    at = [i for i, name in enumerate(full.names) if name in keep]
    gone = [header for i, header in enumerate(full.headers) if i not in at]
    rows = [[row[i] for i in at] for row in full.rows]
    return Grid(
        [full.names[i] for i in at], [full.columns[i] for i in at], [full.headers[i] for i in at], rows
    ), gone
