"""From records to tables, and tables to text.

    from wbcbench.leaderboard import Options, build
    boards = build(["wbcbench-store"], Options(by="balanced_accuracy"))

`model` says what a board is; `build` makes them; `formats` turns them into text and files, one module per format.
"""

from wbcbench.callable_module import make_callable
from wbcbench.leaderboard.build import build, report
from wbcbench.leaderboard.model import Board, Report
from wbcbench.leaderboard.options import Options

make_callable(__name__)

__all__ = ["Board", "Options", "Report", "build", "report"]
