"""A board as a grid of escaped text, which the formats for people lay out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wbcbench.leaderboard.columns import Column, chosen
from wbcbench.leaderboard.formats import View
from wbcbench.leaderboard.model import Board


@dataclass(frozen=True)
class Grid:
    """Headers and cells as text."""

    columns: list[Column]
    headers: list[str]
    rows: list[list[str]]

    @property
    def align(self) -> list[str]:
        """`right` or `left` per column."""
        return ["right" if c.right else "left" for c in self.columns]


def grid(board: Board, view: View, escape: Callable[[str], str]) -> Grid:
    """The board's cells, every one escaped."""
    columns = list(chosen(board, view.columns, view.wide).values())
    rows = [[escape(c.cell(row, board)) for c in columns] for row in board.rows]
    return Grid(columns, [escape(c.header) for c in columns], rows)
