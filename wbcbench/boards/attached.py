"""What stands beside records in a store: searches that led to them, and examinations of their networks.

Both are optional. What is damaged, or of a newer wbcbench, is left out and named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.boards.gather import Found
from wbcbench.boards.model import MissingModalities, Search
from wbcbench.errors import RecordError
from wbcbench.records.evaluations import read_checksummed, read_examination


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Budget(_Lenient):
    study: str
    trials: int
    complete: int | None = None
    pruned: int | None = None
    failed: int | None = None
    train_seconds: float | None = None


class _Winner(_Lenient):
    trial_ids: tuple[str, ...]
    budget: _Budget


class _Winners(_Lenient):
    winners: tuple[_Winner, ...] = ()


def searches(roots: Iterable[Path]) -> tuple[dict[str, Search], list[str]]:
    """Trial id of every retrained winner -> what its search had spent (the costliest, if several found it); and a
    sentence per file that cannot be trusted."""
    budgets: dict[str, Search] = {}
    notes: list[str] = []
    for root in roots:
        for path in sorted(root.glob("searches/*/winner.json")):
            name = path.relative_to(root).as_posix()
            try:
                winners = _parsed(_Winners, read_checksummed(path, name).content, name).winners
            except RecordError as error:
                notes.append(f"Refused: {error} What that search had spent is not shown.")
                continue
            for winner in winners:
                found = Search(**winner.budget.model_dump())
                for trial in winner.trial_ids:
                    known = budgets.get(trial)
                    if known is None or known.trials < found.trials:
                        budgets[trial] = found
    return budgets, notes


class Examinations:
    """Reads examinations of the records of one report, and keeps what has to be said of them."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Trial id -> why what stands beside its record is not shown."""
        self.unchecked: set[str] = set()
        """Trial ids whose examination is older than checksums."""

    def missing_modalities(self, records: Sequence[Found]) -> MissingModalities | None:
        """Mean over seeds of macro-F1 per subset of modalities; None unless every record was examined."""
        tables = []
        for record in records:
            path = f"{record.root}/evaluations/{record.entry.trial_id}.json"
            if not os.path.isfile(path):  # nearly always, so no Path is made for it
                return None
            tables.append(self._table(Path(path), record))
        if any(table is None for table in tables):
            return None
        known = [table for table in tables if table is not None]
        subsets = set.intersection(*(set(t) for t in known)) if known else set()
        if not subsets:
            return None
        means = {
            s: sum(t[s] for t in known) / len(known) for s in sorted(subsets, key=lambda s: (s.count("+"), s))
        }
        worst = min(means, key=lambda s: (means[s], s))
        return MissingModalities(worst=tuple(worst.split("+")), worst_macro_f1=means[worst], subsets=means)

    def notes(self, trials: Iterable[str]) -> list[str]:
        """What a reader of a board of these trials must know."""
        mine = sorted(set(trials))
        notes = [
            f"Refused: {self.refused[t]} Its row shows nothing of missing modalities."
            for t in mine if t in self.refused
        ]  # fmt: skip
        old = sum(t in self.unchecked for t in mine)
        if old:
            notes.append(f"{old} examination{'s' * (old != 1)} in evaluations/ cannot be checked: made before "
                         "examinations had a checksum.")  # fmt: skip
        return notes

    def _table(self, path: Path, record: Found) -> dict[str, float] | None:
        """Subset -> macro-F1, where that is defined."""
        try:
            found = read_examination(path, record.entry.digest)
        except RecordError as error:
            self.refused[record.entry.trial_id] = str(error)
            return None
        if not found.checked:
            self.unchecked.add(record.entry.trial_id)
        metrics = {s: m.get("macro_f1") for s, m in found.result.get("subsets", {}).items()}
        return {s: value for s, value in metrics.items() if value is not None}


def _parsed(model: type[Any], content: dict[str, Any], name: str) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{name} is damaged ({where}: {first['msg']}).") from error


__all__ = ["Examinations", "searches"]
