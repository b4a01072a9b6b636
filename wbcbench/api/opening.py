"""`wbcbench.load_record` and `load_records`: what is in a store, as pandas frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wbcbench.api.choices import check_stores
from wbcbench.api.showing import Shown

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record


@dataclass(repr=False)
class Records(Shown):
    """The records of a store, by trial id."""

    records: list[Record]
    damaged: dict[str, str] = field(default_factory=dict)
    """Path -> what is wrong with it."""

    def frame(self) -> pd.DataFrame:
        """One row per record: what it is, metrics as `test_macro_f1`, costs as `cost_params`, its path."""
        import pandas as pd

        from wbcbench.records.frames import flat

        return pd.DataFrame([flat(r) for r in self.records])

    def summary(self) -> pd.DataFrame:
        """Method, distiller, seed, data set, test macro-F1."""
        columns = ["method", "kd", "seed", "dataset", "test_macro_f1", "trial_id"]
        return self.frame().reindex(columns=columns).rename(columns={"test_macro_f1": "macro-F1"})

    def notes(self) -> list[str]:
        """What is damaged."""
        return [f"Left out: {path}: {reason}" for path, reason in self.damaged.items()]


def load_record(record: str | Path, store: str | Path = "wbcbench-store") -> Record:
    """One record, checked: by trial id, the beginning of one, the path of its folder, or a method's name.

    Its `predictions`, `weights()`, `frame()` (cells with probabilities) and `history()` are read when asked for.

    Raises:
        UsageError: nothing is called so, or several things are.
        RecordError: it is not what it claims.
    """
    from wbcbench.records.find import find_record
    from wbcbench.records.store import Store

    return find_record(record, Store(store))


def load_records(store: str | Path = "wbcbench-store") -> Records:
    """All records of a store, each checked; damaged ones are left out and named.

    Raises:
        UsageError: there is no such store.
    """
    from wbcbench.records.store import Store

    check_stores([store])
    good, bad = Store(store).scan()
    return Records(sorted(good, key=lambda r: r.trial.id), {str(path): str(error) for path, error in bad})


__all__ = ["Records", "load_record", "load_records"]
