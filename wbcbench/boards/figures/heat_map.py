"""The data of a board's heat map: which row is in which cell. `paper` and `page` draw it.

Fusions by distillers, one panel per arrangement of teachers; students without teachers, such as undistilled
ones, are in every panel. All rows have the same backbone and training recipe, and a cell is one row of the board,
not a mean or the best of several. A fusion or distiller with several settings gets a line or column for each. Rows
that are not comparable with the others, or would share a cell, are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from wbcbench.boards.figures.data import NONE
from wbcbench.boards.model import Board, Row
from wbcbench.boards.names import distinct, parameters, teaching
from wbcbench.errors import RecordError
from wbcbench.records import verify as checks
from wbcbench.spec import digest
from wbcbench.spec.trial import method_name, without_draws

T = TypeVar("T")
MOST = 6
"""Maximum number of panels: those with most rows."""
TUNED = "Every row won a search, and has the parameters that it chose."


@dataclass(frozen=True)
class Panel:
    """Students of one arrangement of teachers."""

    title: str
    """`teachers=pi`; empty if the board has only one arrangement."""
    kds: tuple[str, ...]
    """Columns, `none` first."""
    rows: tuple[tuple[Row | None, ...], ...]
    """Fusion by distiller; None: no such row."""
    values: tuple[tuple[float | None, ...], ...]
    """The rows' means of the board's metric."""


@dataclass(frozen=True)
class HeatMap:
    """Panels that share their lines."""

    fusions: tuple[str, ...]
    panels: tuple[Panel, ...]
    remarks: str
    """What is left out, and whether searches chose the parameters; may be empty."""

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest value."""
        found = [v for p in self.panels for line in p.values for v in line if v is not None]
        return min(found), max(found)

    @property
    def note(self) -> str:
        """The remarks, and what an empty cell means if there is one."""
        empty = any(v is None for p in self.panels for line in p.values for v in line)
        return " ".join(filter(None, ["Empty: no such row." if empty else "", self.remarks]))


def heat_map(board: Board) -> HeatMap | None:
    """The heat map of a board; None unless it has two fusions, and two distillers in one panel.

    References are not ranked and are left out. So are other backbones and, unless all rows are winners of
    searches, such winners: a network of nine times the cost, or with tuned parameters, would look like a better
    method. If all rows are winners, each has the parameters that its search chose.
    """
    known = [r for r in board.rows if r.metrics[board.by].mean is not None]
    kept = _Selection(known)
    kept.drop(lambda r: r.status == "reference", "reference row")
    kept.drop(lambda r: r.status == "incomplete", "incomplete row")
    tuned = all(r.search is not None for r in kept.rows)
    kept.drop(lambda r: r.search is not None and not tuned, "winner", "of a search")
    backbone = _usual(r.backbone_text for r in kept.rows)
    kept.drop(lambda r: r.backbone_text != backbone, "row", f"of another backbone than {backbone}")

    places = {r.method_id: parts for r in kept.rows if (parts := _place(r, tuned)) is not None}
    kept.drop(lambda r: r.method_id not in places, "row", "whose specification cannot be read")
    recipe = _usual(m.recipe for m in places.values())
    usual = "" if recipe is None else _labels(m.recipe for m in places.values())[recipe]
    kept.drop(lambda r: places[r.method_id].recipe != recipe, "row", f"of another recipe than the usual{usual}")
    often = Counter(places[r.method_id].cell for r in kept.rows)
    kept.drop(lambda r: often[places[r.method_id].cell] > 1, "row", "that would share a cell")
    taught = Counter(t for r in kept.rows if (t := places[r.method_id].teachers) is not None)
    titles = _labels(taught)
    arrangements = sorted(taught, key=lambda t: (-taught[t], titles[t]))[:MOST]
    kept.drop(lambda r: places[r.method_id].teachers not in (None, *arrangements), "row", "of other teachers")

    cells = {places[r.method_id].cell: r for r in kept.rows}
    lines, columns = _labels(f for f, _, _ in cells), _labels(kd for _, kd, _ in cells)
    panels = []
    shown: list[_Part | None] = [*arrangements] or [None]
    for teachers in shown:
        own = {kd for _, kd, t in cells if t in (None, teachers)}
        kds = sorted(own, key=lambda kd: (kd.name != NONE, columns[kd]))
        rows = tuple(tuple(cells.get((f, kd, teachers if kd.taught else None)) for kd in kds) for f in lines)
        panels.append(
            Panel(
                title=titles[teachers] if teachers is not None and len(shown) > 1 else "",
                kds=tuple(columns[kd] for kd in kds),
                rows=rows,
                values=tuple(tuple(None if r is None else r.metrics[board.by].mean for r in x) for x in rows),
            )
        )
    if len(lines) < 2 or all(len(p.kds) < 2 for p in panels):
        return None
    remarks = [TUNED] if tuned else []
    if kept.left:
        remarks.append(f"Left out: {', '.join(kept.left)}.")
    return HeatMap(tuple(lines.values()), tuple(panels), " ".join(remarks))


@dataclass
class _Selection:
    """Rows to show, and descriptions of what was left out."""

    rows: list[Row]
    left: list[str] = field(default_factory=list)

    def drop(self, which: Callable[[Row], bool], what: str, rest: str = "") -> None:
        """Leave out the rows for which `which` is true."""
        count = sum(map(which, self.rows))
        if count:
            self.rows = [r for r in self.rows if not which(r)]
            self.left.append(f"{count} {what}{'s' * (count > 1)} {rest}".rstrip())


class _Part(NamedTuple):
    """The position of a row on one axis: rows with equal parts share a line, column or panel."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()
    """Readable, for the labels of parts that share a name."""
    exact: str = ""
    """Digest of every parameter."""
    taught: bool = False
    """For distillers: whether they have teachers, and so are in only one panel."""


class _Place(NamedTuple):
    """The cell of a row, and how it was trained."""

    fusion: _Part
    kd: _Part
    teachers: _Part | None
    recipe: _Part

    @property
    def cell(self) -> tuple[_Part, _Part, _Part | None]:
        """Line, column and panel."""
        return self.fusion, self.kd, self.teachers


def _place(row: Row, tuned: bool) -> _Place | None:
    """None: the specification cannot be read. `tuned`: searches chose the parameters, which are then ignored."""
    path = row.sources[0].path
    if path is None:
        return None
    try:
        method = checks.read_trial(path).method
    except RecordError:
        return None
    document = without_draws(method.model_dump(mode="json"))
    taught = bool(method.taught_for)
    reads = "+".join(map("+".join, method.taught_for))
    teachers = _part(f"teachers={reads}", [document["routing"]], document) if taught else None
    fusion = method_name(row.method, NONE, row.policies)
    if tuned:
        return _Place(_Part(fusion), _Part(row.kd, taught=taught), teachers, _Part(""))
    kd = _part(row.kd, document["distillers"])
    return _Place(
        fusion=_part(fusion, [document["fusion"], *document["policies"]]),
        kd=kd._replace(taught=taught, settings=kd.settings + (() if taught else (("teachers", NONE),))),
        teachers=teachers,
        recipe=_part("", [{"name": "recipe", "params": document["recipe"]}]),
    )


def _part(name: str, components: Sequence[Any], taught: dict[str, Any] | None = None) -> _Part:
    """`taught`: the method whose teachers belong to the part."""
    if taught is None:
        return _Part(name, tuple(parameters(components)), digest(components))
    drawn = [taught.get("teacher_seeds"), *([taught["teacher_views"]] if "teacher_views" in taught else [])]
    teachers = [taught["teachers"], *drawn, *taught.get("outside", ())]
    return _Part(name, (*parameters(components), *teaching(taught)), digest([components, teachers]))


def _labels(parts: Iterable[_Part]) -> dict[_Part, str]:
    """Unique readable names: with parameters, or a number, if parts share a name."""
    labels: dict[_Part, str] = {}
    every = list(dict.fromkeys(parts))
    for name in dict.fromkeys(p.name for p in every):
        twins = [p for p in every if p.name == name]
        for part, text in zip(twins, distinct([dict(p.settings) for p in twins]), strict=True):
            again = sum(known == name + text for known in labels.values())
            labels[part] = name + text + (f" #{again + 1}" if again else "")
    return labels


def _usual(values: Iterable[T]) -> T | None:
    """The most frequent value; of equally frequent values the first."""
    found = Counter(values).most_common(1)
    return found[0][0] if found else None


__all__ = ["HeatMap", "Panel", "heat_map"]
