"""A study file: what all parts have in common, and each part's own words, which win."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.search.settings import SearchSettings, settings_from
from wbcbench.spec.load import SEARCH_SECTIONS, merged, read_yaml, request_from, validate
from wbcbench.spec.request import Request
from wbcbench.study.finalists import Finalists


@dataclass(frozen=True)
class Part:
    """One run, or one search: what `wbcbench run` or `wbcbench search` would make of a file with these words."""

    name: str
    request: Request
    settings: SearchSettings | None = None
    """Of a search; None: a run."""
    ranges: dict[str, Any] = field(default_factory=dict)
    """Of a search: parameter -> range."""
    finalists: Finalists | None = None
    """The methods are the best of another part."""
    source: Part | None = None
    """Of finalists: that part."""


def read_study(
    path: Path, flags: dict[str, Any] | None = None, sets: tuple[str, ...] = (), only: Sequence[str] = ()
) -> list[Part]:
    """The parts of a study file, in its order.

    Its keys are `common`, in the words of any config file, and `parts`, name -> more of them: mappings are merged
    into those of `common`, all else replaces it. A part with `search:` (and `space:`) is a search; one with
    `finalists:` takes its methods from a part before it.

    Args:
        path: the file.
        flags: key of the request -> value, for every part; wins over the file.
        sets: `key=value` as text, for every part; wins over both.
        only: names of the parts that are wanted; empty: all.

    Raises:
        UsageError: an unknown key or part, naming it and where it is.
    """
    tree = read_yaml(path)
    if unknown := sorted(set(map(str, tree)) - {"common", "parts"}):
        raise UsageError(
            f"{path}: '{unknown[0]}' is not a key of a study file.{did_you_mean(unknown[0], ('common', 'parts'))} "
            "Expected: common, parts. A single run is `wbcbench run --config`."
        )
    common, parts = tree.get("common") or {}, tree.get("parts") or {}
    own_words = parts.items() if isinstance(parts, dict) else ()
    for key, section in (("common", common), ("parts", parts), *((f"parts.{n}", p or {}) for n, p in own_words)):
        if not isinstance(section, dict):
            raise UsageError(f"{path}: expected key: value pairs in '{key}', but got {section!r}.")
    if not parts:
        raise UsageError(f"{path}: expected `parts`, each a name with what it trains, but there is none.")
    if missing := [name for name in only if name not in parts]:
        raise UsageError(
            f"{path} has no part '{missing[0]}'.{did_you_mean(missing[0], parts)} It has: {', '.join(parts)}."
        )
    found: dict[str, Part] = {}
    for name, own in parts.items():
        found[str(name)] = _part(str(name), _over(common, own or {}), flags or {}, sets, f"{path}: {name}", found)
    return [part for name, part in found.items() if not only or name in only]


def _over(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A part's document. Another data set or backbone does not inherit the parameters of the common one."""
    both = merged(deepcopy(common), deepcopy(own))
    for path in (("dataset",), ("backbone",), ("teacher", "backbone")):
        shared, mine = _at(common, path), _at(own, path)
        if mine is not None:
            first, second = (c if isinstance(c, dict) else {"name": c} for c in (shared, mine))
            same = second.get("name") in (None, first.get("name"))
            _at(both, path[:-1])[path[-1]] = deepcopy(merged(first, second) if same else mine)
    return both


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _part(
    name: str,
    tree: dict[str, Any],
    flags: dict[str, Any],
    sets: tuple[str, ...],
    where: str,
    before: dict[str, Part],
) -> Part:
    settings: SearchSettings | None = None
    ranges: dict[str, Any] = {}
    finalists = source = None
    if (words := tree.pop("finalists", None)) is not None:
        if not isinstance(words, dict):
            raise UsageError(f"{where}: expected key: value pairs in 'finalists', but got {words!r}.")
        finalists = validate(Finalists, words, f"{where}: finalists")
        runs = [n for n, p in before.items() if p.settings is None and p.finalists is None]
        if finalists.of not in runs or tree.get("search") is not None:
            raise UsageError(
                f"{where}: expected `finalists` to name a run before it, in `of`, and no `search`; got "
                f"'{finalists.of}'.{did_you_mean(finalists.of, runs)} There are: {', '.join(runs) or 'none'}."
            )
        source = before[finalists.of]
    if tree.get("search") is not None:
        settings, ranges = settings_from(tree, {}, (), where)
    elif tree.get("space") is not None:
        raise UsageError(f"{where}: expected `search:` beside `space:`; without it nothing is searched.")
    return Part(name, request_from(tree, flags, sets, where=where), settings, ranges, finalists, source)


__all__ = ["SEARCH_SECTIONS", "Part", "read_study"]
