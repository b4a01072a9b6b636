"""What stands beside records in a store: searches that led to them, and examinations of their networks.

Both are optional and may be written by a newer wbcbench: what cannot be read is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.leaderboard.gather import Found
from wbcbench.leaderboard.model import MissingModalities, Search


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


class _Metrics(_Lenient):
    macro_f1: float | None = None


class _Findings(_Lenient):
    subsets: dict[str, _Metrics] = {}


class _Examination(_Lenient):
    version: int
    digest: str
    result: _Findings


def searches(roots: Iterable[Path]) -> dict[str, Search]:
    """Trial id of every retrained winner -> what its search had spent; the costliest, if several found it."""
    budgets: dict[str, Search] = {}
    for root in roots:
        for path in sorted(root.glob("searches/*/winner.json")):
            for winner in _read(_Winners, path, _Winners()).winners:
                found = Search(**winner.budget.model_dump())
                for trial in winner.trial_ids:
                    known = budgets.get(trial)
                    if known is None or known.trials < found.trials:
                        budgets[trial] = found
    return budgets


def missing_modalities(records: Sequence[Found]) -> MissingModalities | None:
    """Mean over seeds of macro-F1 per subset of modalities; None unless every record was examined."""
    tables: list[dict[str, float]] = []
    for record in records:
        path = f"{record.root}/evaluations/{record.entry.trial_id}.json"
        if not os.path.isfile(path):  # nearly always, so no Path is made for it
            return None
        entry = _read(_Examination, Path(path), None)
        if entry is None or entry.version != EXAMINATION_VERSION or entry.digest != record.entry.digest:
            return None
        tables.append({s: m.macro_f1 for s, m in entry.result.subsets.items() if m.macro_f1 is not None})
    subsets = set.intersection(*(set(t) for t in tables)) if tables else set()
    if not subsets:
        return None
    means = {s: sum(t[s] for t in tables) / len(tables) for s in sorted(subsets, key=lambda s: (s.count("+"), s))}
    worst = min(means, key=lambda s: (means[s], s))
    return MissingModalities(worst=tuple(worst.split("+")), worst_macro_f1=means[worst], subsets=means)


def _read(model: type[Any], path: Path, otherwise: Any) -> Any:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return otherwise
