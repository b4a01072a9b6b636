"""Which rows of several boards are one method.

A method's id holds its protocol, so rows are matched by what they are made of: every component of the student with
its parameters. A winner of a search has parameters of its own on each data set: there the method is "this,
searched for", and winners match winners. The training recipe may differ, and is pointed out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from wbcbench.boards.model import Row
from wbcbench.boards.names import distinct
from wbcbench.records.files import DOCUMENTS
from wbcbench.spec import digest
from wbcbench.spec.trial import method_name

T = TypeVar("T")
SHOWN = 12
"""Names in a note, at most."""

Rows = tuple["Candidate", ...]
"""One per board, in the order of the boards."""


class Candidate(NamedTuple):
    """A row with what its specification says, or empty texts where that cannot be read any more."""

    row: Row
    parameters: str
    """Equal for students of equal components."""
    recipe: str
    settings: dict[str, str]
    """Every parameter, for a name."""


class Matched(NamedTuple):
    """Methods that are on every board."""

    methods: dict[str, tuple[Row, ...]]
    """Unique name -> its rows, in the order of the boards."""
    notes: tuple[str, ...]
    """What a reader must know of how rows were matched."""


def matched(boards: Sequence[Sequence[Row]]) -> Matched:
    """Match the rows of some boards; of a name that cannot be matched without doubt nothing is taken."""
    tables = [_grouped(rows, _names) for rows in boards]
    found: list[tuple[str, Rows]] = []
    left: list[str] = []
    for names in tables[0]:
        if not all(names in table for table in tables):
            continue
        candidates = [[_candidate(r) for r in table[names]] for table in tables]
        title = _title(candidates[0][0].row)
        own = [(title, rows) for rows in _same(candidates)]
        found += own
        left += [] if own else [title]
    named: dict[str, Rows] = {}
    for title in dict.fromkeys(title for title, _ in found):
        twins = [rows for name, rows in found if name == title]
        texts = distinct([_settings(rows) for rows in twins])
        named |= {title + text: rows for text, rows in zip(texts, twins, strict=True)}
    return Matched({n: tuple(c.row for c in rows) for n, rows in named.items()}, tuple(_notes(named, left)))


def _same(candidates: Sequence[Sequence[Candidate]]) -> Iterator[Rows]:
    """Rows of equal parameters; then, of the winners among the others, those that are alone on their board."""
    exact = [_grouped(own, lambda c: c.parameters) for own in candidates]
    taken = set()
    for parameters in exact[0]:
        if all(len(table.get(parameters, ())) == 1 for table in exact):
            taken.add(parameters)
            yield tuple(table[parameters][0] for table in exact)
    searched = [[c for c in own if c.row.search and c.parameters not in taken] for own in candidates]
    if all(len(own) == 1 for own in searched):
        yield tuple(own[0] for own in searched)


def _notes(methods: Mapping[str, Rows], left: Sequence[str]) -> Iterator[str]:
    searched = [n for n, rows in methods.items() if not _alike(rows)]
    if searched:
        yield f"Searched for on each data set, and so with parameters of its own on each: {_listed(searched)}."
    recipes = [n for n, rows in methods.items() if n not in searched and len({c.recipe for c in rows}) > 1]
    if recipes:
        yield f"With another training recipe on each data set: {_listed(recipes)}."
    if left:
        yield (
            "On all of them, but not compared, since parameters differ or several rows are called so: "
            f"{_listed(left)}."
        )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _alike(rows: Rows) -> bool:
    return len({c.parameters for c in rows}) == 1


def _settings(rows: Rows) -> dict[str, str]:
    """Parameters for a name; none where each row has its own."""
    return rows[0].settings if _alike(rows) else {}


def _grouped(rows: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for r in rows:
        found.setdefault(key(r), []).append(r)
    return found


def _names(r: Row) -> str:
    return digest([r.fusion, r.kd, r.backbone, r.policies, r.teacher_backbones, r.routing or ""])


def _title(r: Row) -> str:
    return f"{method_name(r.fusion, r.kd, r.policies)} ({r.backbone})"


def _candidate(r: Row) -> Candidate:
    path = r.sources[0].path
    try:
        assert path is not None
        method = json.loads((path / "spec.json").read_bytes())["method"]
        parts = [
            method["fusion"],
            method["backbone"],
            *method["policies"],
            *method["distillers"],
            method["routing"],
        ]
        settings = {f"{c['name']}.{k}": str(v) for c in parts if c for k, v in c["params"].items()}
        return Candidate(r, digest(parts), digest(method["recipe"]), settings)
    except (OSError, *DOCUMENTS, KeyError, TypeError, AttributeError):
        return Candidate(r, "", "", {})


__all__ = ["Candidate", "Matched", "matched"]
