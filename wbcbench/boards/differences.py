"""In what the specifications of two methods differ, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wbcbench.boards.model import Row
from wbcbench.records import verify as checks


def spec_differences(a: Row, b: Row) -> Iterator[str]:
    """`field: a's != b's`; teachers are told by what they read and are made of."""
    paths = [row.sources[0].path for row in (a, b)]
    assert all(paths)
    mine, theirs = (checks.read_trial(p).method.model_dump(mode="json") for p in paths if p is not None)
    for method in (mine, theirs):
        method["teachers"] = [
            {"reads": t["protocol"]["modalities"], "seed": t["seed"],
             **{k: t["method"][k] for k in ("fusion", "backbone", "recipe")}}
            for t in method["teachers"]
        ]  # fmt: skip
    if a.modalities != b.modalities:
        yield f"modalities: {'+'.join(a.modalities)} != {'+'.join(b.modalities)}"
    yield from _differing("", mine, theirs)


def _differing(path: str, mine: Any, theirs: Any) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in dict.fromkeys([*mine, *theirs]):
            yield from _differing(f"{path}.{name}" if path else name, mine.get(name), theirs.get(name))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            yield from _differing(f"{path}[{i}]", x, y)
    elif mine != theirs:
        yield f"{path}: {_short(mine)} != {_short(theirs)}"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    if isinstance(value, dict) and "backbone" in value:
        return f"{_short(value['backbone'])} on {'+'.join(value['reads'])}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]" if value else "none"
    return "none" if value is None else str(value)


__all__ = ["spec_differences"]
