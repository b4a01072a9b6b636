"""The commands of the command line as functions, for notebooks and scripts.

They take the same values (`fusion="early,independent"`, or a list), read the same config files, and return objects
that are displayed as tables and convert to pandas frames. A function and its command make the same request.

    run, search, study             train and record
    load_record, load_records      read records
    leaderboard, compare           tables of records
    predict, export, report        use one trained network
    evaluate                       trained networks on other labelled cells
    check                          test a plugin

They do not change global state of the calling process: see `wbcbench.isolation`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbcbench.api.boards import Boards, Comparison, compare, leaderboard
    from wbcbench.api.checking import Checked, check
    from wbcbench.api.deploying import Exported, Predicted, RecordPage, export, predict, report
    from wbcbench.api.evaluating import Evaluations, evaluate
    from wbcbench.api.records import Records, load_record, load_records
    from wbcbench.api.running import Run, run
    from wbcbench.api.searching import Searches, search
    from wbcbench.api.studying import StudyRun, study

_MODULES = {
    "boards": ("Boards", "Comparison", "compare", "leaderboard"),
    "checking": ("Checked", "check"),
    "deploying": ("Exported", "Predicted", "RecordPage", "export", "predict", "report"),
    "evaluating": ("Evaluations", "evaluate"),
    "records": ("Records", "load_record", "load_records"),
    "running": ("Run", "run"),
    "searching": ("Searches", "search"),
    "studying": ("StudyRun", "study"),
}
"""Module of this package -> its public names; imported on first use, so that `--help` stays fast."""
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Boards",
    "Checked",
    "Comparison",
    "Evaluations",
    "Exported",
    "Predicted",
    "RecordPage",
    "Records",
    "Run",
    "Searches",
    "StudyRun",
    "check",
    "compare",
    "evaluate",
    "export",
    "leaderboard",
    "load_record",
    "load_records",
    "predict",
    "report",
    "run",
    "search",
    "study",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'wbcbench.api' has no attribute {name!r}")
    return getattr(import_module(f"wbcbench.api.{_WHERE[name]}"), name)
