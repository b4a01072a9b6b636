"""How results show themselves, and `wbcbench.load_record(s)`: what is in a store, as pandas frames."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

from wbcbench.api.requests import stores_of
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record, Store


class Shown(ABC):
    """A result with a `summary` frame, shown as a table."""

    @abstractmethod
    def summary(self) -> pd.DataFrame:
        """The frame that is shown: the main columns."""

    def notes(self) -> list[str]:
        """Lines under the table."""
        return []

    def __repr__(self) -> str:
        from tabulate import tabulate

        table = self.summary()
        rows, heads = table.to_numpy().tolist(), [str(c) for c in table.columns]
        text = tabulate(rows, headers=heads, tablefmt="simple", floatfmt=".3f", missingval="-")
        return "\n".join([text, *self.notes()])

    def _repr_html_(self) -> str:
        from html import escape

        table = self.summary().to_html(
            index=False, na_rep="-", float_format="{:.3f}".format, border=0, escape=True
        )
        return str(table) + "".join(f"<p>{escape(line)}</p>" for line in self.notes())


@dataclass(repr=False)
class Records(Shown, Sequence["Record"]):
    """The records of a store, by trial id: a sequence, a table and a frame."""

    records: list[Record]
    damaged: dict[str, str] = field(default_factory=dict)
    """Path -> what is wrong with it."""

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        return Records(self.records[index]) if isinstance(index, slice) else self.records[index]

    def frame(self) -> pd.DataFrame:
        """One row per record: what it is, metrics as `test_macro_f1`, costs as `cost_params`, its path."""
        import pandas as pd

        from wbcbench.records.frames import flat

        return pd.DataFrame([flat(r) | _of_order(r) for r in self.records])

    def summary(self) -> pd.DataFrame:
        """Method, distiller, seed, data set, test macro-F1."""
        columns = ["method", "kd", "seed", "dataset", "test_macro_f1", "trial_id"]
        return self.frame().reindex(columns=columns).rename(columns={"test_macro_f1": "macro-F1"})

    def notes(self) -> list[str]:
        """Damaged records."""
        return [f"Left out: {path}: {reason}" for path, reason in self.damaged.items()]


def _of_order(record: Record) -> dict[str, float | None]:
    """The metrics that use the order of classes, if the record's have one, as `test_quadratic_kappa`."""
    key = record.result.key
    if not key.ordered:
        return {}
    from wbcbench.boards.values import of_order
    from wbcbench.evaluation.scorers import value_of

    arrays, found = record.predictions, {}
    for side in (s for s in ("test", "val") if f"{s}_probabilities" in arrays):
        for s in of_order():
            metric = s.of(key.classes, ordered=True)
            found[f"{side}_{s.name}"] = value_of(metric, arrays[f"{side}_probabilities"], arrays[f"{side}_labels"])
    return found


@guest()
def load_record(record: str | Path, store: str | Path | None = None) -> Record:
    """One record, checked.

    Args:
        record: a trial's id, the beginning of one, the path of its folder, or a method's name as on a leaderboard,
            which gives the seed with the best validation score.
        store: where ids and names are looked up, a store or a published board; None: `WBCBENCH_STORE` if set,
            else wbcbench-store.

    Returns:
        The record. Its `predictions`, `weights()`, `frame()` (cells with probabilities) and `history()` are read
        on first use.

    Raises:
        UsageError: no record matches, or several do.
        RecordError: the record is damaged or was changed.
    """
    from wbcbench.boards.find import find_record

    with _kept_open(stores_of(store)[0]) as (opened, keep):
        return keep(find_record(record, opened))


@guest()
def load_records(store: str | Path | None = None) -> Records:
    """All records of a store, each checked; damaged ones are left out and listed.

    Args:
        store: a folder of records or a published board; None: `WBCBENCH_STORE` if set, else wbcbench-store.

    Returns:
        A sequence of records by trial id, with `frame()` for all of them.

    Raises:
        UsageError: there is no such store.
        RecordError: a published board is damaged or was changed.
    """
    from wbcbench.api.requests import check_stores

    check_stores(stores_of(store)[:1])
    with _kept_open(stores_of(store)[0]) as (opened, keep):
        good, bad = opened.scan()
        good = [keep(record) for record in good]
    return Records(sorted(good, key=lambda r: r.trial.id), {str(path): str(error) for path, error in bad})


class _Opened:
    """Ends with the last record that refers to it."""


@contextmanager
def _kept_open(path: Path) -> Iterator[tuple[Store, Callable[[Record], Record]]]:
    """A store or a published board as a store, and a function that keeps unpacked files as long as a record."""
    from wbcbench.publishing.sources import store_at

    opened = _Opened()

    def keep(record: Record) -> Record:
        vars(record)["_opened"] = opened  # its predictions are read on first use
        return record

    with ExitStack() as stack:
        yield stack.enter_context(store_at(path.absolute())), keep
        weakref.finalize(opened, stack.pop_all().close)


__all__ = ["Records", "Shown", "load_record", "load_records"]
