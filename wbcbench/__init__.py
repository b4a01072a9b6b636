"""wbcbench: multimodal fusion and knowledge distillation of white blood cells, compared on equal terms.

In Python, with the names of the command line:

    import wbcbench

    done = wbcbench.run(fusion="early,independent", kd="none,logits", seeds=[0, 1, 2])
    found = wbcbench.search(fusion="independent", kd="dkd", trials=50)
    whole = wbcbench.study("configs/studies/smoke.yaml")
    board = wbcbench.leaderboard()
    wbcbench.compare("early", "independent + logits")
    cells = wbcbench.predict("independent + logits", "new_cells/").frame()
    wbcbench.evaluate(dataset="other_cells.npz")          # every ranked row, on other labelled cells
    wbcbench.export("independent + logits", "exported", format="onnx")
    wbcbench.report("independent + logits", "page.html")
    wbcbench.check("plugins/gated.py")
    record = wbcbench.load_record("3f9c5b02")
    every = wbcbench.load_records()          # all of a store, as a pandas frame: every.frame()

Nothing is imported before one of them is used. See `wbcbench.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from wbcbench.api import (
        check,
        compare,
        evaluate,
        export,
        leaderboard,
        load_record,
        load_records,
        predict,
        report,
        run,
        search,
        study,
    )

__all__ = [
    "__version__",
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
    if name not in __all__:
        raise AttributeError(f"module 'wbcbench' has no attribute {name!r}")
    import wbcbench.api

    return getattr(wbcbench.api, name)
