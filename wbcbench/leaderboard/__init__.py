"""From records to tables, and tables to text.

    from wbcbench.leaderboard import Options, build
    boards = build(["wbcbench-store"], Options(by="balanced_accuracy"))

`model` says what a board is; `build` makes them; `formats` turns them into text and files, one module per format.
"""

import sys
from types import ModuleType
from typing import Any

from wbcbench.leaderboard.build import build, report
from wbcbench.leaderboard.model import Board, Report
from wbcbench.leaderboard.options import Options


class _Callable(ModuleType):
    """This package has the name of a function of `wbcbench.api`, and puts itself in its place when imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import wbcbench.api

        return wbcbench.api.leaderboard(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = ["Board", "Options", "Report", "build", "report"]
