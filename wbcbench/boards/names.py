"""Readable names of rows: unique on their board, and no longer than needed to distinguish the rows.

`gmu`, `independent + dkd`, `concat + modality_dropout`; if two rows would share a name, what differs is added:
backbone, teachers, then the parameters, as in `independent + dkd (weight=0.1)`. Only rows without any readable
difference get a part of their id, `#4caab3`. How often the cells of a row's slots agree is always shown, as in
`independent (rho=0.5)`: it decides what is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from wbcbench.boards.entries import Entry
from wbcbench.boards.model import Row
from wbcbench.files import DOCUMENTS
from wbcbench.spec import digest
from wbcbench.spec.request import STUDENT
from wbcbench.spec.trial import method_name

SHOWN = 4
"""Maximum number of parameters in one name."""
_LONGEST = 24
"""Maximum number of characters of one parameter's value."""
_EXTRAS: tuple[Callable[[Row], str], ...] = (
    lambda r: f" ({r.backbone})",
    lambda r: f" < {'+'.join(r.teacher_backbones)}" if r.teacher_backbones else "",
    lambda r: f" [{r.routing}]" if r.routing else "",
)

ALWAYS = {"rho": None, "slots": "batch"}
"""Parameters of a fusion of several modalities that a name always has -> the value that needs no mention."""
Settings = dict[str, str]
_LONG = re.compile(r"(?<![\w.])\d+\.\d{3,}(?:e[+-]?\d+)?(?![\w.])")
"""A number with more digits than a name needs."""


def label(entry: Entry, modalities: tuple[str, ...]) -> str:
    """`gmu`; `single[dapi]` if only one modality is read."""
    one = entry.fusion == "single" or len(modalities) == 1
    return f"{entry.fusion}[{'+'.join(modalities)}]" if one else entry.fusion


def named(rows: Sequence[Row]) -> list[Row]:
    """The rows with their names. Reads the specifications of rows that differ only in parameters."""
    names = {r.method_id: method_name(r.method, r.kd, r.policies) + _outside(r) for r in rows}
    for extra in _EXTRAS:
        for twins in _twins(rows, names):
            if len({extra(r) for r in twins}) > 1:
                names |= {r.method_id: names[r.method_id] + extra(r) for r in twins}
    texts: dict[str, str] = {}
    for twins in _twins(rows, names):
        added = distinct([_settings(r) for r in twins])
        texts |= {r.method_id: text for r, text in zip(twins, added, strict=True)}
    names |= {r.method_id: names[r.method_id] + _with_slots(r, texts.get(r.method_id, "")) for r in rows}
    for twins in _twins(rows, names):
        names |= {r.method_id: f"{names[r.method_id]} #{r.method_id[:6]}" for r in twins}
    return [r.model_copy(update={"name": names[r.method_id]}) for r in rows]


def _outside(row: Row) -> str:
    """` < random forest`: teachers from outside are always named."""
    return f" < {'+'.join(dict.fromkeys(t.name for t in row.outside))}" if row.outside else ""


def _with_slots(row: Row, text: str) -> str:
    """` (name=value, ...)` with the parameters of `ALWAYS` that a row's fusion has and `text` lacks, put first."""
    shown = [part.partition("=")[0].rpartition(".")[2] for part in text[2:-1].split(", ")]
    more = [f"{name}={value}" for name, value in _slots(row).items() if name not in shown]
    return f" ({', '.join([*more, *([text[2:-1]] if text else [])])})" if more else text


def _slots(row: Row) -> Settings:
    def of(method: dict[str, Any]) -> Settings:
        params = method["fusion"]["params"]
        return {
            name: _rounded(_short(params[name]))
            for name, usual in ALWAYS.items()
            if params.get(name, usual) != usual
        }

    return _read(row, of) if len(row.modalities) > 1 else {}


def with_backbones(rows: Sequence[Row], ids: Mapping[str, str]) -> list[Row]:
    """The rows, each with the parameters that distinguish its backbone from others of that name.

    Args:
        rows: of one board.
        ids: method id -> digest of its backbone with every parameter.
    """
    found: dict[str, str] = {}
    for name in {r.backbone for r in rows}:
        own = {ids[r.method_id]: r for r in rows if r.backbone == name}
        if len(own) > 1:
            texts = distinct([_backbone(r) for r in own.values()])
            found |= {id_: text[2:-1] for id_, text in zip(own, texts, strict=True)}
            if len({found[id_] for id_ in own}) == 1:
                found |= {id_: f"#{id_[:6]}" for id_ in own}
    return [r.model_copy(update={"backbone_differs": found.get(ids[r.method_id], "")}) for r in rows]


def distinct(settings: Sequence[Settings]) -> list[str]:
    """For each set of parameters, ` (name=value, ...)` with as few parameters as distinguish the sets.

    Parameters are tried in order; each is used if it separates rows that the previous ones do not. Empty strings
    if nothing differs. Numbers have three digits, if these distinguish the sets as well.
    """
    keys = [k for k in dict.fromkeys(k for s in settings for k in s) if len({s.get(k) for s in settings}) > 1]
    full = len({tuple(s.get(k) for k in keys) for s in settings})
    whole = [k for k in keys if len({s.get(k) for s in settings}) == full]
    picked = whole[:1]
    seen = full if picked else 1
    for key in [] if picked else keys:
        count = len({tuple(s.get(k) for k in (*picked, key)) for s in settings})
        if count > seen and len(picked) < SHOWN:
            picked, seen = [*picked, key], count
    short = {k: k.rsplit(".", 1)[-1] for k in picked}
    if len(set(short.values())) < len(short):
        short = {k: k for k in picked}
    texts = [", ".join(f"{short[k]}={s[k]}" for k in picked if k in s) for s in settings]
    rounded = [_rounded(text) for text in texts]
    texts = rounded if len(set(rounded)) == len(set(texts)) else texts
    return [f" ({t})" if t else "" for t in texts]


def _twins(rows: Sequence[Row], names: dict[str, str]) -> list[list[Row]]:
    found: dict[str, list[Row]] = {}
    for r in rows:
        found.setdefault(names[r.method_id], []).append(r)
    return [twins for twins in found.values() if len(twins) > 1]


def _settings(row: Row) -> Settings:
    """Every parameter of a row's method; empty if its specification cannot be read."""
    return _read(row, lambda method: dict(_method("", method)))


def _backbone(row: Row) -> Settings:
    """Parameters of a row's backbone, without the model's name."""

    def of(method: dict[str, Any]) -> Settings:
        found: Settings = {}
        for m, part in _backbones(method).items():
            found |= {f"{m}.{k}" if m else k: _short(v) for k, v in part["params"].items() if k != "model"}
        return found

    return _read(row, of)


def _backbones(method: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Modality -> its backbone, of a method's document; "" -> the one of all modalities."""
    found: dict[str, Any] = method["backbone"]
    return {"": found} if isinstance(found.get("name"), str) else found


def _read(row: Row, of: Callable[[dict[str, Any]], Settings]) -> Settings:
    path = row.sources[0].path
    try:
        assert path is not None
        return of(json.loads((path / "spec.json").read_bytes())["method"])
    except (OSError, *DOCUMENTS, KeyError, TypeError, AttributeError):
        return {}


def parameters(parts: Iterable[dict[str, Any] | None], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`gmu.gate` -> value, of every parameter of some components."""
    for part in filter(None, parts):
        for name, value in part["params"].items():
            yield f"{prefix}{part['name']}.{name}", _short(value)


def teaching(taught: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The parameters that distinguish the teachers of one method (`taught`) from those of another."""
    teachers = taught["teachers"]
    if teachers:
        yield f"{prefix}teachers", "+".join("+".join(t["protocol"]["modalities"]) for t in teachers)
    for teacher in teachers:
        for name, value in teacher["protocol"]["budget"].items():
            yield f"{prefix}teacher {name}", _short(value)
        yield f"{prefix}teacher image_size", _short(teacher["protocol"]["image_size"])
        yield f"{prefix}teacher fusion", str(teacher["method"]["fusion"]["name"])
        for key, text in _method(f"{prefix}teacher ", teacher["method"]):
            head, _, tail = key.rpartition(".")
            yield (f"{head}.teacher {tail}" if head else key), text
    if taught.get("outside"):
        yield f"{prefix}answers", "+".join(f"{t['name']}#{t['digest'][:6]}" for t in taught["outside"])
    if teachers:
        vary = taught.get("teacher_seeds") == STUDENT
        seeds = STUDENT if vary else "+".join(str(s) for s in sorted({t["seed"] for t in teachers}))
        yield f"{prefix}teacher seeds", seeds
        yield f"{prefix}teacher views", str(taught.get("teacher_views", "same"))


def _method(prefix: str, method: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parts = [method["fusion"], *method["distillers"], *method["policies"], method["routing"]]
    yield from parameters(parts, prefix)
    for modality, part in _backbones(method).items():
        yield from parameters([part], prefix + (f"{modality} " if modality else ""))
    for name, value in method["recipe"].items():
        yield f"{prefix}recipe.{name}", _short(value)
    yield from teaching(method, prefix)


def _rounded(text: str) -> str:
    return _LONG.sub(lambda m: f"{float(m[0]):.3g}", text)


def _short(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, list):
        text = "+".join(map(_short, value))
    elif isinstance(value, dict):
        text = " ".join(f"{k}:{_short(v)}" for k, v in value.items())
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


T = TypeVar("T")
COMPARED = 12
"""Maximum number of names in a note."""

Rows = tuple["Candidate", ...]
"""One per board, in the order of the boards."""


class Candidate(NamedTuple):
    """A row with digests of its specification; empty strings if that cannot be read."""

    row: Row
    parameters: str
    """Equal for students of equal components."""
    recipe: str
    settings: dict[str, str]
    """Every parameter, for the name."""


class Matched(NamedTuple):
    """Methods that are on every board."""

    methods: dict[str, tuple[Row, ...]]
    """Unique name -> its rows, in the order of the boards."""
    notes: tuple[str, ...]
    """Notes for readers on how rows were matched."""


def matched(boards: Sequence[Sequence[Row]]) -> Matched:
    """Match the rows of some boards; names that cannot be matched unambiguously are left out."""
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
        texts = distinct([_compared_settings(rows) for rows in twins])
        named |= {title + text: rows for text, rows in zip(texts, twins, strict=True)}
    return Matched({n: tuple(c.row for c in rows) for n, rows in named.items()}, tuple(_notes(named, left)))


def _same(candidates: Sequence[Sequence[Candidate]]) -> Iterator[Rows]:
    """Rows with equal parameters, first of those without a search, then of all that are left; then, of the other
    searches' winners, those that are alone on their board. So a searched twin is a method of its own."""
    left = [list(own) for own in candidates]
    for searched in (False, True):
        exact = [_grouped([c for c in own if searched or not c.row.search], _parameters) for own in left]
        for parameters in exact[0]:
            if all(len(table.get(parameters, ())) == 1 for table in exact):
                rows = tuple(table[parameters][0] for table in exact)
                yield rows
                left = [[c for c in own if c is not r] for own, r in zip(left, rows, strict=True)]
    winners = [[c for c in own if c.row.search] for own in left]
    if all(len(own) == 1 for own in winners):
        yield tuple(own[0] for own in winners)


def _parameters(candidate: Candidate) -> str:
    return candidate.parameters


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
    rest = len(names) - COMPARED
    return ", ".join(names[:COMPARED]) + (f" and {rest} more" if rest > 0 else "")


def _alike(rows: Rows) -> bool:
    return len({c.parameters for c in rows}) == 1


def _compared_settings(rows: Rows) -> dict[str, str]:
    """Parameters for a name; none if they differ between rows. Last, whether all were searched for."""
    searched = {"search": "own"} if all(c.row.search for c in rows) else {}
    return (rows[0].settings if _alike(rows) else {}) | searched


def _grouped(rows: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for r in rows:
        found.setdefault(key(r), []).append(r)
    return found


def _names(r: Row) -> str:
    return digest([r.fusion, r.kd, r.backbone, r.policies, r.teacher_backbones, r.routing or "", _outside(r)])


def _title(r: Row) -> str:
    return f"{method_name(r.fusion, r.kd, r.policies)}{_outside(r)} ({r.backbone})"


def _candidate(r: Row) -> Candidate:
    path = r.sources[0].path
    try:
        assert path is not None
        method = json.loads((path / "spec.json").read_bytes())["method"]
        parts = [
            method["fusion"],
            *_backbones(method).values(),
            *method["policies"],
            *method["distillers"],
            method["routing"],
        ]
        settings = {f"{c['name']}.{k}": str(v) for c in parts if c for k, v in c["params"].items()}
        return Candidate(r, digest(parts), digest(method["recipe"]), settings)
    except (OSError, *DOCUMENTS, KeyError, TypeError, AttributeError):
        return Candidate(r, "", "", {})


__all__ = [
    "SHOWN",
    "Candidate",
    "Matched",
    "Settings",
    "distinct",
    "label",
    "matched",
    "named",
    "parameters",
    "teaching",
    "with_backbones",
]
