"""The heat map of a board as data: which row stands in which cell. The paper's figure and the page draw this.

Fusions by distillers, one panel per arrangement of teachers; students without teachers, undistilled ones above
all, stand in every panel. All rows have one backbone and one training recipe, and a cell is one row of the board:
never a mean, never the best of several. A fusion or distiller with several settings gets a line or column for
each, and whatever else would stand beside the others, or share a cell, is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from wbcbench.boards.model import Board, Row
from wbcbench.boards.names import distinct, parameters, teaching
from wbcbench.errors import RecordError
from wbcbench.records import verify as checks
from wbcbench.spec import digest
from wbcbench.spec.trial import method_name

T = TypeVar("T")
MOST = 6
"""Panels, at most: those with most rows."""
NONE = "none"
"""What boards call no distillation."""
TUNED = "Every row won a search, and has the parameters that it chose."


@dataclass(frozen=True)
class Panel:
    """Students of one arrangement of teachers."""

    title: str
    """`teachers=pi`; empty where the board has one arrangement."""
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
    told: str
    """What is left out, and how rows were chosen; empty: nothing, as they come."""

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest value."""
        found = [v for p in self.panels for line in p.values for v in line if v is not None]
        return min(found), max(found)

    @property
    def note(self) -> str:
        """What a reader must know: also of cells that are empty."""
        empty = any(v is None for p in self.panels for line in p.values for v in line)
        return " ".join(filter(None, ["Empty: no such row." if empty else "", self.told]))


def heat_map(board: Board) -> HeatMap | None:
    """The heat map of a board; None unless it has two fusions, and two distillers in one panel.

    A reference does not compete; a network of nine times the cost beside one of its pupils would look like a
    better method, and so would the winner of a search beside methods as they come. Where a board has winners
    alone, each stands there with the parameters that its search chose.
    """
    known = [r for r in board.rows if r.metrics[board.by].mean is not None]
    kept = _Kept(known)
    kept.leave(lambda r: r.status == "reference", "reference row")
    kept.leave(lambda r: r.status == "incomplete", "incomplete row")
    tuned = all(r.search is not None for r in kept.rows)
    kept.leave(lambda r: r.search is not None and not tuned, "winner", "of a search")
    backbone = _usual(r.backbone_text for r in kept.rows)
    kept.leave(lambda r: r.backbone_text != backbone, "row", f"of another backbone than {backbone}")

    made = {r.method_id: parts for r in kept.rows if (parts := _made(r, tuned)) is not None}
    kept.leave(lambda r: r.method_id not in made, "row", "whose specification cannot be read")
    recipe = _usual(m.recipe for m in made.values())
    usual = "" if recipe is None else _labels(m.recipe for m in made.values())[recipe]
    kept.leave(lambda r: made[r.method_id].recipe != recipe, "row", f"of another recipe than the usual{usual}")
    often = Counter(made[r.method_id].cell for r in kept.rows)
    kept.leave(lambda r: often[made[r.method_id].cell] > 1, "row", "that would share a cell")
    taught = Counter(t for r in kept.rows if (t := made[r.method_id].teachers) is not None)
    titles = _labels(taught)
    arrangements = sorted(taught, key=lambda t: (-taught[t], titles[t]))[:MOST]
    kept.leave(lambda r: made[r.method_id].teachers not in (None, *arrangements), "row", "of other teachers")

    there = {made[r.method_id].cell: r for r in kept.rows}
    lines, columns = _labels(f for f, _, _ in there), _labels(kd for _, kd, _ in there)
    panels = []
    shown: list[_Part | None] = [*arrangements] or [None]
    for teachers in shown:
        own = {kd for _, kd, t in there if t in (None, teachers)}
        kds = sorted(own, key=lambda kd: (kd.name != NONE, columns[kd]))
        rows = tuple(tuple(there.get((f, kd, teachers if kd.taught else None)) for kd in kds) for f in lines)
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
    told = [TUNED] if tuned else []
    if kept.left:
        told.append(f"Left out: {', '.join(kept.left)}.")
    return HeatMap(tuple(lines.values()), tuple(panels), " ".join(told))


@dataclass
class _Kept:
    """Rows that are still shown, and what was left out, in words."""

    rows: list[Row]
    left: list[str] = field(default_factory=list)

    def leave(self, which: Callable[[Row], bool], what: str, rest: str = "") -> None:
        """Leave out the rows of which that holds."""
        count = sum(map(which, self.rows))
        if count:
            self.rows = [r for r in self.rows if not which(r)]
            self.left.append(f"{count} {what}{'s' * (count > 1)} {rest}".rstrip())


class _Part(NamedTuple):
    """What one axis knows of a row; equal parts are one line, column or panel."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()
    """Readable, for the labels of parts that share a name."""
    exact: str = ""
    """Digest of every parameter."""
    taught: bool = False
    """Of distillers: they have teachers, and so stand in one panel."""


class _Made(NamedTuple):
    """Where a row stands, and how it was trained."""

    fusion: _Part
    kd: _Part
    teachers: _Part | None
    recipe: _Part

    @property
    def cell(self) -> tuple[_Part, _Part, _Part | None]:
        """Line, column and panel."""
        return self.fusion, self.kd, self.teachers


def _made(row: Row, tuned: bool) -> _Made | None:
    """None: the specification cannot be read. `tuned`: parameters are a search's, and tell nothing apart."""
    path = row.sources[0].path
    if path is None:
        return None
    try:
        method = checks.read_trial(path).method
    except RecordError:
        return None
    said = method.model_dump(mode="json")
    taught = bool(method.teachers)
    reads = "+".join("+".join(t.protocol.modalities) for t in method.teachers)
    teachers = _part(f"teachers={reads}", [said["routing"]], said["teachers"]) if taught else None
    fusion = method_name(row.method, NONE, row.policies)
    if tuned:
        return _Made(_Part(fusion), _Part(row.kd, taught=taught), teachers, _Part(""))
    kd = _part(row.kd, said["distillers"])
    return _Made(
        fusion=_part(fusion, [said["fusion"], *said["policies"]]),
        kd=kd._replace(taught=taught, settings=kd.settings + (() if taught else (("teachers", NONE),))),
        teachers=teachers,
        recipe=_part("", [{"name": "recipe", "params": said["recipe"]}]),
    )


def _part(name: str, components: Sequence[Any], teachers: Sequence[Any] = ()) -> _Part:
    return _Part(name, (*parameters(components), *teaching(teachers)), digest([components, teachers]))


def _labels(parts: Iterable[_Part]) -> dict[_Part, str]:
    """Names for people, each once: with parameters, or a number, where parts share one."""
    labels: dict[_Part, str] = {}
    every = list(dict.fromkeys(parts))
    for name in dict.fromkeys(p.name for p in every):
        twins = [p for p in every if p.name == name]
        for part, text in zip(twins, distinct([dict(p.settings) for p in twins]), strict=True):
            again = sum(known == name + text for known in labels.values())
            labels[part] = name + text + (f" #{again + 1}" if again else "")
    return labels


def _usual(values: Iterable[T]) -> T | None:
    """The most frequent; of equally frequent ones the first."""
    found = Counter(values).most_common(1)
    return found[0][0] if found else None


__all__ = ["HeatMap", "Panel", "heat_map"]
