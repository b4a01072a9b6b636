"""Gathering what a report shows: the record, what was found out of it since, and its worst mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from wbcbench.errors import WbcbenchError
from wbcbench.inference.data import HINT, workbench
from wbcbench.records.spoilt import DOCUMENTS
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.reporting.mistakes import mistakes
from wbcbench.reporting.page import Material


def gather(
    record: Record,
    store: Store,
    registry: Registry,
    sets: Sequence[str] = (),
    decoding: Callable[[int, int, str], None] | None = None,
) -> Material:
    """Everything that is at hand; without the cells there are no pictures, and the page says why.

    Args:
        sets: where the cells lie, as in `dataset.path=cells.npz`.

    Raises:
        UsageError: the cells that `sets` names are not the record's.
    """
    material = Material(record, examination(record), None)
    try:
        cells = workbench(record, store, registry, sets, decoding=decoding).cells(record.trial)
    except WbcbenchError as error:
        if sets:
            raise  # the user named them
        return Material(record, material.examination, None, f"{error} {HINT}")
    return Material(record, material.examination, tuple(mistakes(record, cells, material.side)))


def examination(record: Record) -> dict[str, Any] | None:
    """What `--evaluate full` wrote beside the records of this store; None: nothing, or of another record."""
    path = record.path.parent.parent / "evaluations" / f"{record.trial.id}.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = entry["result"]
        return found if entry["digest"] == record.result.digest and isinstance(found, dict) else None
    except (OSError, *DOCUMENTS, KeyError, TypeError):
        return None


__all__ = ["examination", "gather"]
