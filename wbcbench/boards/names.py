"""Names for people: unique on their board, and no longer than it takes to tell the rows apart.

`gmu`, `independent + dkd`, `concat + modality_dropout`; where two rows would share a name, what differs is added:
backbone, teachers, then the parameters, as in `independent + dkd (weight=0.1)`. Only rows that nothing readable
tells apart get a piece of their id, `#4caab3`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from wbcbench.boards.entries import Entry
from wbcbench.boards.model import Row
from wbcbench.records.files import DOCUMENTS
from wbcbench.spec.trial import method_name

SHOWN = 4
"""Parameters in one name, at most."""
_LONGEST = 24
"""Characters of one parameter's value."""
_EXTRAS: tuple[Callable[[Row], str], ...] = (
    lambda r: f" ({r.backbone})",
    lambda r: f" < {'+'.join(r.teacher_backbones)}" if r.teacher_backbones else "",
    lambda r: f" [{r.routing}]" if r.routing else "",
)

Settings = dict[str, str]


def label(entry: Entry, modalities: tuple[str, ...]) -> str:
    """`gmu`; `single[dapi]` where one modality is read."""
    one = entry.fusion == "single" or len(modalities) == 1
    return f"{entry.fusion}[{'+'.join(modalities)}]" if one else entry.fusion


def named(rows: Sequence[Row]) -> list[Row]:
    """The rows with their names. Reads the specifications of rows that differ in parameters only."""
    names = {r.method_id: method_name(r.method, r.kd, r.policies) for r in rows}
    for extra in _EXTRAS:
        for twins in _twins(rows, names):
            if len({extra(r) for r in twins}) > 1:
                names |= {r.method_id: names[r.method_id] + extra(r) for r in twins}
    for twins in _twins(rows, names):
        added = distinct([_settings(r) for r in twins])
        names |= {r.method_id: names[r.method_id] + text for r, text in zip(twins, added, strict=True)}
    for twins in _twins(rows, names):
        names |= {r.method_id: f"{names[r.method_id]} #{r.method_id[:6]}" for r in twins}
    return [r.model_copy(update={"name": names[r.method_id]}) for r in rows]


def with_backbones(rows: Sequence[Row], ids: Mapping[str, str]) -> list[Row]:
    """The rows, each with what tells its backbone from others of that name.

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
    """For each set of parameters, ` (name=value, ...)` with the fewest first parameters that tell them apart.

    Parameters are taken in their order, each if it splits rows that those before it leave equal. Empty texts where
    nothing differs.
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
    return [f" ({t})" if t else "" for t in texts]


def _twins(rows: Sequence[Row], names: dict[str, str]) -> list[list[Row]]:
    found: dict[str, list[Row]] = {}
    for r in rows:
        found.setdefault(names[r.method_id], []).append(r)
    return [twins for twins in found.values() if len(twins) > 1]


def _settings(row: Row) -> Settings:
    """Every parameter of a row's method; empty where its specification cannot be read any more."""
    return _read(row, lambda method: dict(_method("", method)))


def _backbone(row: Row) -> Settings:
    """Parameters of a row's backbone, without the model that names it."""
    return _read(
        row, lambda method: {k: _short(v) for k, v in method["backbone"]["params"].items() if k != "model"}
    )


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


def teaching(teachers: Sequence[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What tells the teachers of one method from those of another."""
    if teachers:
        yield f"{prefix}teachers", "+".join("+".join(t["protocol"]["modalities"]) for t in teachers)
    for teacher in teachers:
        for name, value in teacher["protocol"]["budget"].items():
            yield f"{prefix}teacher {name}", _short(value)
        yield f"{prefix}teacher fusion", str(teacher["method"]["fusion"]["name"])
        for key, text in _method(f"{prefix}teacher ", teacher["method"]):
            head, _, tail = key.rpartition(".")
            yield (f"{head}.teacher {tail}" if head else key), text


def _method(prefix: str, method: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parts = [method["fusion"], *method["distillers"], *method["policies"], method["routing"], method["backbone"]]
    yield from parameters(parts, prefix)
    for name, value in method["recipe"].items():
        yield f"{prefix}recipe.{name}", _short(value)
    yield from teaching(method["teachers"], prefix)


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


__all__ = ["SHOWN", "Settings", "distinct", "label", "named", "parameters", "teaching", "with_backbones"]
