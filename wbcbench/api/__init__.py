"""The verbs of the command line as functions, for notebooks and scripts.

They take the same words (`fusion="early,independent"`, or a list), read the same config files, and return objects
that show themselves as tables and open as pandas frames.
"""

from wbcbench.api.boards import Boards, leaderboard
from wbcbench.api.opening import Records, load_record, load_records
from wbcbench.api.running import Run, run
from wbcbench.api.searching import Searches, search

__all__ = [
    "Boards",
    "Records",
    "Run",
    "Searches",
    "leaderboard",
    "load_record",
    "load_records",
    "run",
    "search",
]
