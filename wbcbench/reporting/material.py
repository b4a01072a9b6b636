"""Gathering what a report shows: the record, what was found out of it since, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from wbcbench.errors import RecordError, WbcbenchError
from wbcbench.inference.data import HINT, workbench
from wbcbench.records.examinations import examination_path, read_examination
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
    found, remark = examination(record)
    material = Material(record, found, None, remark=remark)
    try:
        cells = workbench(record, store, registry, sets, decoding=decoding).cells(record.trial)
    except WbcbenchError as error:
        if sets:
            raise  # the user named them
        return replace(material, without=f"{error} {HINT}")
    return replace(material, mistakes=tuple(mistakes(record, cells, material.side)))


def examination(record: Record) -> tuple[dict[str, Any] | None, str]:
    """What `--evaluate full` wrote beside the record, if it can be trusted; and what has to be said of it."""
    path = examination_path(record.path.parent.parent, record.trial.id)
    if not path.is_file():
        return None, ""
    try:
        found = read_examination(path, record.result.digest)
    except RecordError as error:
        return None, f"An examination was refused: {error}"
    return found.result, "" if found.checked else "Made before examinations had a checksum, so not checked."


__all__ = ["examination", "gather"]
