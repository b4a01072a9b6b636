"""Which rows of several boards are one method.

A method's id holds its protocol, so rows are matched by what they are made of: every component of the student with
its parameters. A winner of a search has parameters of its own on each data set: there the method is "this,
searched for", and winners match winners. The training recipe may differ, and is pointed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from wbcbench.errors import RecordError
from wbcbench.leaderboard.model import Row
from wbcbench.leaderboard.names import distinct
from wbcbench.records import verify as checks
from wbcbench.spec import Component, Method, digest

Rows = tuple[Row, ...]
"""One per board, in the order of the boards."""


class Matched(NamedTuple):
    """Methods that are on every board."""

    methods: dict[str, Rows]
    """Unique name -> rows."""
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
        candidates = [table[names] for table in tables]
        title = _title(candidates[0][0])
        own = [(title, rows) for rows in _same(candidates)]
        found += own
        left += [] if own else [title]
    methods: dict[str, Rows] = {}
    for title in dict.fromkeys(title for title, _ in found):
        twins = [rows for name, rows in found if name == title]
        texts = distinct([_settings(rows) for rows in twins])
        methods |= {title + text: rows for text, rows in zip(texts, twins, strict=True)}
    return Matched(methods, tuple(_notes(methods, left)))


def _same(candidates: Sequence[Sequence[Row]]) -> Iterator[Rows]:
    """Rows of equal parameters; then, of the winners among the others, those that are alone on their board."""
    exact = [_grouped(rows, _parameters) for rows in candidates]
    taken = set()
    for parameters in exact[0]:
        if all(len(table.get(parameters, ())) == 1 for table in exact):
            taken.add(parameters)
            yield tuple(table[parameters][0] for table in exact)
    searched = [[r for r in rows if r.search and _parameters(r) not in taken] for rows in candidates]
    if all(len(rows) == 1 for rows in searched):
        yield tuple(rows[0] for rows in searched)


def _notes(methods: Mapping[str, Rows], left: Sequence[str]) -> Iterator[str]:
    searched = [n for n, rows in methods.items() if not _alike(rows)]
    if searched:
        yield f"Searched for on each data set, and so with parameters of its own on each: {', '.join(searched)}."
    recipes = [n for n, rows in methods.items() if n not in searched and len({_recipe(r) for r in rows}) > 1]
    if recipes:
        yield f"With another training recipe on each data set: {', '.join(recipes)}."
    if left:
        yield (
            "On all of them, but not compared, since parameters differ or several rows are called so: "
            f"{', '.join(left)}."
        )


def _grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for r in rows:
        found.setdefault(key(r), []).append(r)
    return found


def _names(r: Row) -> str:
    return digest([r.fusion, r.kd, r.backbone, r.policies, r.teacher_backbones, r.routing or ""])


def _title(r: Row) -> str:
    return " + ".join([r.fusion, *([r.kd] if r.kd != "none" else []), *r.policies]) + f" ({r.backbone})"


def _parameters(r: Row) -> str:
    """Equal for students of equal components; the names alone where a specification cannot be read any more."""
    method = _method(r)
    return "" if method is None else digest([c.model_dump(mode="json") for c in _components(method)])


def _recipe(r: Row) -> str:
    method = _method(r)
    return "" if method is None else digest(method.recipe)


def _alike(rows: Rows) -> bool:
    return len({_parameters(r) for r in rows}) == 1


def _settings(rows: Rows) -> dict[str, str]:
    """Parameters for a name; none where each row has its own."""
    method = _method(rows[0])
    parts = () if method is None or not _alike(rows) else _components(method)
    return {f"{c.name}.{name}": str(value) for c in parts for name, value in c.params.items()}


def _components(method: Method) -> tuple[Component, ...]:
    routing = () if method.routing is None else (method.routing,)
    return (method.fusion, method.backbone, *method.policies, *method.distillers, *routing)


def _method(r: Row) -> Method | None:
    path = r.sources[0].path
    try:
        return None if path is None else checks.read_trial(path).method
    except RecordError:
        return None


__all__ = ["Matched", "Rows", "matched"]
