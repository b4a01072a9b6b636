"""What is evaluated beside a board's own test: a row has the files of all its networks, or shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wbcbench.boards.entries import Found
from wbcbench.boards.options import Options
from wbcbench.errors import RecordError, WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.records.evaluations import Evaluated, P, path_of, read_predicted
from wbcbench.spec import digest

Methods = Mapping[str, Sequence[Found]]
Limits = tuple[tuple[float, float], ...]
"""Intervals: low and high of each."""


def complete(
    form: type[P], place: str, methods: Methods, names: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, dict[str, Evaluated[P]]], list[str]]:
    """Method id -> trial id -> its evaluation, of the methods that have one of every network; and the others that
    have some, with how many.

    Args:
        form: of the files.
        place: their folder.
        methods: records of each method.
        names: of the rows, by method id.
        notes: gets why files were refused.
    """
    whole: dict[str, dict[str, Evaluated[P]]] = {}
    partly = []
    for method, records in methods.items():
        every = [record for found in records for record in found.records]
        read: dict[str, Evaluated[P]] = {}
        for record in every:
            trial = record.entry.trial_id
            path = path_of(form, record.root, place, trial)
            try:
                if path.is_file():
                    read[trial] = read_predicted(form, path, record.entry.digest)
            except RecordError as error:
                notes.append(f"Refused: {error} Its row does not show it.")
        if len(read) == len(every):
            whole[method] = read
        elif read:
            partly.append(f"{names[method]} ({len(read)} of {len(every)})")
    return whole, sorted(partly)


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limits: Limits


def intervals(question: Any, compute: Callable[[], Limits], root: Path, options: Options) -> Limits:
    """Intervals, cached next to the index.

    Args:
        question: JSON-able, all that determines them besides the options.
        compute: called if they are not cached.
        root: of the store.
        options: of the board.
    """
    key = digest([2, question, options.resamples, options.bootstrap_seed], length=32)
    path = root / "index" / "statistics" / f"evaluated-{key}.json"
    if options.index:
        with suppress(OSError, ValidationError):
            return _Kept.model_validate_json(path.read_bytes()).limits
    found = tuple((round(low, 9), round(high, 9)) for low, high in compute())
    if options.index:
        with suppress(WbcbenchError):
            atomic_write_bytes(path, _Kept(limits=found).model_dump_json().encode())
    return found


__all__ = ["Limits", "Methods", "complete", "intervals"]
