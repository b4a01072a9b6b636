"""Leaderboards: from records to tables, and tables to text. (`wbcbench.leaderboard` is the function.)

    from wbcbench.boards import Options, build
    boards = build(["wbcbench-store"], Options(by="balanced_accuracy"))

`model` defines boards; `build` makes them; `formats` writes them as text and files; `figures` draws them.
"""

from wbcbench.boards.build import build, report
from wbcbench.boards.model import Board, Report
from wbcbench.boards.options import Options

__all__ = ["Board", "Options", "Report", "build", "report"]
