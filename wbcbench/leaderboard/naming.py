"""Names of rows: unique on their board, no longer than needed, and saying what tells twins apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from wbcbench.leaderboard.model import Row

MOST = 3
"""Parameters in a name; rows that differ in more are told apart by the method's id."""


def named(rows: Sequence[Row]) -> list[Row]:
    """Rows with names that are unique on their board.

    Fusion and distiller; where that is not enough also policies, backbone, teachers, routing, then parameters as
    their records' specifications have them: `independent (rho=0)`.
    """
    names = {r.method_id: r.method + (f" + {r.kd}" if r.kd != "none" else "") for r in rows}
    extra: list[Callable[[Row], str]] = [
        lambda r: "".join(f" + {p}" for p in r.policies),
        lambda r: f" ({r.backbone})",
        lambda r: f" < {'+'.join(r.teacher_backbones)}" if r.teacher_backbones else "",
        lambda r: f" [{r.routing}]" if r.routing else "",
    ]
    for more in extra:
        for twins in _twins(rows, names):
            if len({more(r) for r in twins}) > 1:
                names |= {r.method_id: names[r.method_id] + more(r) for r in twins}
    for twins in _twins(rows, names):
        names |= {r.method_id: names[r.method_id] + text for r, text in zip(twins, _apart(twins), strict=True)}
    for twins in _twins(rows, names):
        names |= {r.method_id: f"{names[r.method_id]} #{r.method_id[:6]}" for r in twins}
    return [r.model_copy(update={"name": names[r.method_id]}) for r in rows]


def _twins(rows: Sequence[Row], names: dict[str, str]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for r in rows:
        groups.setdefault(names[r.method_id], []).append(r)
    return [g for g in groups.values() if len(g) > 1]


def _apart(twins: Sequence[Row]) -> list[str]:
    """For each row ` (name=value, ...)` with what the rows differ in; empty if that is too much."""
    found = [_parameters(r) for r in twins]
    keys = sorted({k for f in found for k in f})
    differing = [k for k in keys if len({json.dumps(f.get(k)) for f in found}) > 1]
    if not 0 < len(differing) <= MOST:
        return [""] * len(twins)
    short = {k: k.rpartition(".")[2] for k in differing}
    if len(set(short.values())) < len(short):
        short = {k: k for k in differing}
    return [" (" + ", ".join(f"{short[k]}={_shown(f.get(k))}" for k in differing) + ")" for f in found]


def _parameters(row: Row) -> dict[str, Any]:
    """Dotted name -> value of all in the method of the row's first record; empty where it cannot be read."""
    path = row.sources[0].path if row.sources else None
    if path is None:
        return {}
    try:
        method = json.loads((path / "spec.json").read_text(encoding="utf-8"))["method"]
        teachers = sorted("+".join(t["protocol"]["modalities"]) for t in method["teachers"])
        return _flat("", method | {"teachers": " & ".join(teachers)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    return {k: v for name, x in items for k, v in _flat(f"{prefix}.{name}" if prefix else str(name), x).items()}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


__all__ = ["named"]
