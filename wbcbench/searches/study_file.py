"""A study file: common settings of all parts, settings of each part, and finalists passed from part to part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from wbcbench.errors import IncompatibleError, UsageError, did_you_mean
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.scheduling.plan import Plan, PlannedTrial, make_plan
from wbcbench.searches.settings import SearchSettings, settings_from
from wbcbench.spec import Component, Trial
from wbcbench.spec.load import SEARCH_SECTIONS, Settings, merged, read_yaml, request_from, validate
from wbcbench.spec.request import Choice, Request


class Finalists(BaseModel):
    """`finalists:` of a part, which selects its methods; its `fusion` and `kd` are ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(description="an earlier part, which is a run")
    count: int = Field(4, ge=0, description="number of its best methods (fusion with distillation) to take")
    always: tuple[str, ...] = Field((), description="fusions whose best method is always taken")


def choose(plan: Plan, store: Store, wanted: Finalists) -> list[Trial] | int:
    """One trial of each finalist, best first; or the number of the plan's students without a record, if any.

    A method's score is its mean macro-F1 on validation cells over its seeds; the test split is not read. If scores
    are equal, the smaller method id comes first.
    """
    students = [p.trial for p in plan.trials if p.role == "student"]
    missing = sum(not store.has(t.id) for t in students)
    if missing:
        return missing
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in students:
        scores[trial.method_id()].append(store.load(trial.id).result.metrics["val"]["macro_f1"] or 0.0)
    one = {t.method_id(): t for t in students}
    order = sorted(scores, key=lambda m: (-mean(scores[m]), m))
    kept = order[: wanted.count]
    for fusion in wanted.always:
        best = next((m for m in order if one[m].method.fusion.name == fusion), None)
        if best is not None and best not in kept:
            kept.append(best)
    return [one[m] for m in kept]


def plan_finalists(request: Request, finalists: Iterable[Trial], registry: Registry) -> Plan:
    """A plan of exactly these methods with the request's seeds, backbone, budget and data.

    Raises:
        IncompatibleError: a method is not compatible with these and the request has `incompatible: refuse`, or no
            method is.
    """
    whole: Plan | None = None
    refused: list[str] = []
    for trial in finalists:
        kd = tuple(map(_choice, trial.method.distillers)) or (Choice(name="none"),)
        own = request.model_copy(update={"fusion": (_choice(trial.method.fusion),), "kd": (kd,)})
        try:
            plan = make_plan(own, registry)
        except IncompatibleError as error:
            if request.incompatible == "refuse":
                raise
            refused.append(str(error))
            continue
        whole = plan if whole is None else _joined(whole, plan)
    if whole is None:
        raise IncompatibleError("Expected finalists to run, but none fits this part. " + " ".join(refused))
    whole.notes += refused
    return whole


def _joined(a: Plan, b: Plan) -> Plan:
    """Both plans as one: teachers first, each trial once."""
    both = {p.trial.id: p for p in b.trials} | {p.trial.id: p for p in a.trials}
    roles: dict[str, list[PlannedTrial]] = {"teacher": [], "student": []}
    for planned in (*a.trials, *b.trials):
        if (one := both.pop(planned.trial.id, None)) is not None:
            roles[one.role].append(one)
    return replace(a, trials=[*roles["teacher"], *roles["student"]], notes=list(dict.fromkeys(a.notes + b.notes)))


def _choice(component: Component) -> Choice:
    return Choice(name=component.name, params=dict(component.params))


@dataclass(frozen=True)
class Part:
    """One run or one search, as by `wbcbench run` or `wbcbench search` with a config file of this content."""

    name: str
    request: Request
    settings: SearchSettings | None = None
    """Of a search; None: a run."""
    ranges: dict[str, Any] = field(default_factory=dict)
    """Of a search: parameter -> range."""
    finalists: Finalists | None = None
    """Its methods are the best of another part."""
    source: Part | None = None
    """Of finalists: the part that they are from."""


def read_study(
    path: Path, flags: dict[str, Any] | None = None, settings: Settings = (), only: Sequence[str] = ()
) -> list[Part]:
    """The parts of a study file, in order.

    Its keys are `common`, with the keys of any config file, and `parts`, name -> the same keys: mappings are
    merged with those of `common`, other values replace them. A part with `search:` (and `space:`) is a search; one
    with `finalists:` takes its methods from an earlier part.

    Args:
        path: the file.
        flags: key of the request -> value, for every part; takes precedence over the file.
        settings: any key, for every part; takes precedence over both.
        only: names of the requested parts; empty: all.

    Raises:
        UsageError: an unknown key or part; the message names it and its place.
    """
    document = read_yaml(path)
    if unknown := sorted(set(map(str, document)) - {"common", "parts"}):
        raise UsageError(
            f"{path}: '{unknown[0]}' is not a key of a study file.{did_you_mean(unknown[0], ('common', 'parts'))} "
            "Expected: common, parts. A single run is `wbcbench run --config`."
        )
    common, parts = document.get("common") or {}, document.get("parts") or {}
    own_words = parts.items() if isinstance(parts, dict) else ()
    for key, section in (("common", common), ("parts", parts), *((f"parts.{n}", p or {}) for n, p in own_words)):
        if not isinstance(section, dict):
            raise UsageError(f"{path}: expected key: value pairs in '{key}', but got {section!r}.")
    if not parts:
        raise UsageError(f"{path}: expected `parts`, a mapping of names to settings, but there is none.")
    if missing := [name for name in only if name not in parts]:
        raise UsageError(
            f"{path} has no part '{missing[0]}'.{did_you_mean(missing[0], parts)} It has: {', '.join(parts)}."
        )
    found: dict[str, Part] = {}
    for name, own in parts.items():
        tree = _over(common, own or {})
        found[str(name)] = _part(str(name), tree, flags or {}, settings, f"{path}: {name}", found)
    return [part for name, part in found.items() if not only or name in only]


def _over(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A part's document. A different data set or backbone does not inherit the parameters of the common one."""
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
    settings: Settings,
    where: str,
    before: dict[str, Part],
) -> Part:
    search: SearchSettings | None = None
    ranges: dict[str, Any] = {}
    finalists = source = None
    if (words := tree.pop("finalists", None)) is not None:
        if not isinstance(words, dict):
            raise UsageError(f"{where}: expected key: value pairs in 'finalists', but got {words!r}.")
        finalists = validate(Finalists, words, f"{where}: finalists")
        runs = [n for n, p in before.items() if p.settings is None and p.finalists is None]
        if finalists.of not in runs or tree.get("search") is not None:
            raise UsageError(
                f"{where}: expected `finalists` with an earlier run in `of`, and no `search`; got "
                f"'{finalists.of}'.{did_you_mean(finalists.of, runs)} There are: {', '.join(runs) or 'none'}."
            )
        source = before[finalists.of]
    if tree.get("search") is not None:
        search, ranges = settings_from(tree, {}, (), where)
    elif tree.get("space") is not None:
        raise UsageError(f"{where}: expected `search:` together with `space:`. Add it, or remove `space:`.")
    return Part(name, request_from(tree, flags, settings, where=where), search, ranges, finalists, source)


__all__ = ["SEARCH_SECTIONS", "Finalists", "Part", "choose", "plan_finalists", "read_study"]
