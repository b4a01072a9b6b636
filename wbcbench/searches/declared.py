"""The search space of a request, from the ranges declared with components' parameters and from `--space`.

Parameters that the user set (inline, by `--set`, or in the file's `training`) are only searched if `--space` names
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wbcbench.contracts.params import SEARCH_KEY, condition_of, holds, names_in
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.registry import Registry
from wbcbench.scheduling.compatibility import adds_loss
from wbcbench.scheduling.components import with_carried
from wbcbench.searches.space import (
    METHOD,
    Dimension,
    Range,
    Space,
    component_name,
    interval,
    labels,
    parse_range,
)
from wbcbench.spec.load import COMPONENT_SECTIONS
from wbcbench.spec.request import BackboneChoice, Choice, Request
from wbcbench.spec.trial import ComponentSpec, Recipe


@dataclass(frozen=True)
class _Slot:
    """One parameter that can be searched."""

    name: str
    section: str
    component: str
    parameter: str
    field: FieldInfo
    pinned: bool
    when: dict[str, tuple[Any, ...]]
    known: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Label of the alternative -> facts and the component's parameters there, searched ones at their defaults."""


def build_space(
    request: Request,
    registry: Registry,
    overrides: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Space:
    """The space of a request, without parameters that have no effect.

    Args:
        request: as for a run.
        registry: of components.
        overrides: name -> text, list or value: ranges that replace declared ones.
        facts: of the request's trials, see `wbcbench.contracts.params.FACTS`.

    Raises:
        UsageError: an unknown name, an invalid range, nothing to search, or a range of what has no effect.
    """
    request = written_out(request, registry)
    slots = list(_slots(request, registry, facts or {}))
    targets = [(_target(name, slots), (name, value)) for name, value in (overrides or {}).items()]
    wanted = dict(sorted(targets, key=lambda t: len(t[0])))  # a name of fewer parameters comes first
    dimensions: list[Dimension] = [
        Dimension(name=name, section=name, range=Range(kind="choice", choices=tuple(found)))
        for name, key in METHOD.items()
        if len(found := labels(request, key)) > 1
    ]
    ranges: dict[str, Range] = {}
    for slot in slots:
        given = next((v for names, v in wanted.items() if slot.name in names), None)
        found_range = _declared(slot) if given is None else _given(slot, *given)
        if found_range is not None:
            ranges[slot.name] = found_range
    for slot in slots:
        when = _effective(slot, slots, ranges) if slot.name in ranges else None
        if when is not None:
            dimensions.append(
                Dimension(
                    name=slot.name, section=slot.section, component=slot.component, parameter=slot.parameter,
                    range=ranges[slot.name], when=when,
                )
            )  # fmt: skip
        elif any(slot.name in names for names in wanted):
            raise UsageError(
                f"--space {slot.name}: it has no effect here, only where {condition_of(slot.field)}. Leave it out."
            )
    space = Space(request, tuple(dimensions), _usual_weights(registry, dimensions))
    if not space.free:
        raise UsageError(
            "Expected at least one parameter to search, but all are fixed. Give a range, as in "
            "--space 'training.lr=log(1e-4,1e-2)'"
        )
    return space


def _usual_weights(registry: Registry, dimensions: Iterable[Dimension]) -> dict[str, float]:
    """Distiller -> the default of its weight, of those whose weight is searched."""
    searched = {d.component for d in dimensions if (d.section, d.parameter) == ("distiller", "weight")}
    return {n: _fields(registry, "distiller", Choice(name=n))["weight"].default for n in sorted(searched)}


def known_ranges(
    request: Request, registry: Registry, ranges: Mapping[str, Any], strict: bool = False
) -> dict[str, Any]:
    """The ranges for which the request has a parameter; with `strict`, others raise `UsageError`."""
    slots = list(_slots(written_out(request, registry), registry, {}))
    found = {}
    for name, value in ranges.items():
        try:
            _target(name, slots)
        except UsageError:
            if strict:
                raise
            continue
        found[name] = value
    return found


def written_out(request: Request, registry: Registry) -> Request:
    """The request with `--set` overrides moved into the choices with these parameters (the planner has refused
    others), and what belongs to another distiller moved there."""
    request = with_carried(request, registry)

    def mine(kind: str, section: str, choice: Choice) -> Choice:
        fields = _fields(registry, kind, choice)
        found = {k: v for k, v in request.overrides.get(section, {}).items() if k in fields}
        return Choice(name=choice.name, params={**choice.params, **found})

    def backbone(choice: BackboneChoice) -> BackboneChoice:
        if isinstance(choice, Choice):
            return mine("backbone", "backbone", choice)
        return {m: mine("backbone", "backbone", c) for m, c in choice.items()}

    return request.model_copy(
        update={
            "fusion": tuple(mine("fusion", "fusion", c) for c in request.fusion),
            "backbone": tuple(map(backbone, request.backbone)),
            "kd": tuple(tuple(mine("distiller", "kd", c) for c in kd) for kd in request.kd),
            "policy": tuple(mine("policy", "policy", c) for c in request.policy),
            "routing": mine("routing", "routing", request.routing),
            "overrides": {k: v for k, v in request.overrides.items() if k not in COMPONENT_SECTIONS[1:]},
        }
    )


def _fields(registry: Registry, kind: str, choice: Choice) -> dict[str, FieldInfo]:
    return registry.declared(kind, choice.name).params.model_fields


def _effective(slot: _Slot, slots: list[_Slot], ranges: Mapping[str, Range]) -> dict[str, tuple[Any, ...]] | None:
    """When the slot's dimension exists, its `when` included; None if it never has an effect.

    A parameter that switches it on and is searched among choices limits it to the choices that do; one that is
    searched in an interval switches it on nearly everywhere.
    """
    condition = condition_of(slot.field)
    if not condition:
        return slot.when
    mine = {s.parameter: s for s in slots if (s.section, s.component) == (slot.section, slot.component)}
    switches = {n: ranges[s.name] for n, s in mine.items() if s.name in ranges and n in names_in(condition)}
    fixed = {n: r.choices[0] for n, r in switches.items() if r.kind == "fixed"}
    usable = [
        key
        for key, known in slot.known.items()
        if holds(condition, {**{k: v for k, v in known.items() if k not in switches}, **fixed})
    ]
    when = dict(slot.when)
    if len(usable) < len(slot.known):
        when[{"distiller": "kd"}.get(slot.section, slot.section)] = tuple(usable)
    for name, found in switches.items():
        if found.kind == "choice":
            when[mine[name].name] = tuple(v for v in found.choices if holds(condition, {name: v}))
    return when if usable and all(when.values()) else None


def _slots(request: Request, registry: Registry, facts: Mapping[str, Any]) -> Iterator[_Slot]:
    recipe = request.training
    for name, info in Recipe.model_fields.items():
        pinned = name in recipe.model_fields_set
        yield _Slot(
            f"training.{name}", "training", "", name, info, pinned, {}, {"": {**recipe.model_dump(), **facts}}
        )

    def section(name: str, alternatives: dict[str, tuple[Choice, ...]]) -> Iterator[_Slot]:
        return _section(registry, name, alternatives, facts)

    yield from section("fusion", {k: (c,) for k, c in labels(request, "fusion").items()})
    yield from section("backbone", {k: _each(b) for k, b in labels(request, "backbone").items()})
    combinations: dict[str, tuple[Choice, ...]] = labels(request, "kd")
    yield from section("distiller", combinations)
    yield from section("policy", {"": request.policy})
    taught = [k for k, kd in combinations.items() if any(_has_teacher(registry, c) for c in kd)]
    if taught:
        condition = {} if len(taught) == len(combinations) else {"kd": tuple(taught)}
        for slot in section("routing", {"": (request.routing,)}):
            yield replace(slot, when=condition)


def _each(backbone: BackboneChoice) -> tuple[Choice, ...]:
    """One choice, or those of each modality under the names of their dimensions."""
    if isinstance(backbone, Choice):
        return (backbone,)
    return tuple(Choice(name=component_name(m, c.name), params=c.params) for m, c in backbone.items())


def _section(
    registry: Registry, section: str, alternatives: dict[str, tuple[Choice, ...]], facts: Mapping[str, Any]
) -> Iterator[_Slot]:
    """Each parameter of each component once, with the labels for which it exists and is not set by the user."""
    category = {"distiller": "kd"}.get(section, section)
    names = dict.fromkeys(c.name for combination in alternatives.values() for c in combination if c.name != "none")
    alone = len(names) == 1
    for component in names:
        fields = _fields(registry, section, Choice(name=component.rpartition(":")[2]))
        default = {n: f.get_default(call_default_factory=True) for n, f in fields.items() if not f.is_required()}
        for parameter, info in fields.items():
            there, free = [], []
            known: dict[str, dict[str, Any]] = {}
            for key, combination in alternatives.items():
                for choice in combination:
                    if choice.name != component:
                        continue
                    loses = section == "distiller" and _adds_loss(registry, choice, combination)
                    if section == "distiller" and parameter == "weight" and not loses:
                        continue
                    there.append(key)
                    free += [] if parameter in choice.params else [key]
                    known[key] = {**default, **choice.params, **facts, "adds_loss": loses}
            if not there:
                continue
            active = free or there
            everywhere = len(active) == len(alternatives) or alternatives.keys() == {""}
            yield _Slot(
                name=f"{section}.{parameter}" if alone else f"{section}.{component}.{parameter}",
                section=section,
                component=component,
                parameter=parameter,
                field=info,
                pinned=not free,
                when={} if everywhere else {category: tuple(active)},
                known={key: known[key] for key in active},
            )


def _has_teacher(registry: Registry, choice: Choice) -> bool:
    needs = registry.declared("distiller", choice.name).needs
    return choice.name != "none" and needs.taught_by == "teacher"


def _adds_loss(registry: Registry, choice: Choice, combination: tuple[Choice, ...]) -> bool:
    named = tuple(ComponentSpec(name=c.name) for c in combination)
    return adds_loss(registry, ComponentSpec(name=choice.name), named)


def _target(name: str, slots: list[_Slot]) -> frozenset[str]:
    """The slots that match a name of `--space`: by full name, or without the component's name."""
    section, _, rest = name.strip().partition(".")
    section = {"kd": "distiller", "policies": "policy", "recipe": "training"}.get(section, section)
    full = f"{section}.{rest}"
    found = {s.name for s in slots if full in (s.name, f"{s.section}.{s.component}.{s.parameter}")}
    found = found or {
        s.name for s in slots if full == f"{s.section}.{s.component.partition(':')[0]}.{s.parameter}"
    }
    found = found or {s.name for s in slots if full == f"{s.section}.{s.parameter}"}
    if not found:
        why = _WHY_NOT.get(section if rest else "methods", "")
        known = [s.name for s in slots]
        raise UsageError(
            f"--space {name}: no parameter of this search has that name.{why}{did_you_mean(full, known)} "
            "--show-space lists all parameters."
        )
    return frozenset(found)


_PROTOCOL = " It belongs to the protocol, which must be the same for all methods."
_WHY_NOT = {
    **dict.fromkeys(("dataset", "split", "budget", "augmentation", "selection"), _PROTOCOL),
    "teacher": " Teachers are shared by all proposals and are not searched.",
    "methods": " Select methods with --fusion a,b, --kd c,d and --backbone e,f.",
}


def _declared(slot: _Slot) -> Range | None:
    extra = slot.field.json_schema_extra
    declared = extra.get(SEARCH_KEY) if isinstance(extra, dict) else None
    if slot.pinned or not isinstance(declared, dict):
        return None
    if "choices" in declared:
        choices: Any = declared["choices"]
        return Range(kind="choice", choices=tuple(choices))
    low, high, log = declared["low"], declared["high"], declared["log"]
    return interval(slot.name, float(low), float(high), log=bool(log), whole=_whole(slot))  # type: ignore[arg-type]


def _given(slot: _Slot, name: str, value: Any) -> Range:
    found = parse_range(name, value, whole=_whole(slot))
    if slot.field.annotation is float:
        floats = tuple(float(v) if type(v) is int else v for v in found.choices)
        found = found.model_copy(update={"choices": floats})
    ends = found.choices if found.kind in ("choice", "fixed") else (found.low, found.high)
    values: list[Any] = [int(e) for e in ends] if found.kind == "int" else list(ends)
    adapter: TypeAdapter[Any] = TypeAdapter(
        Annotated[(slot.field.annotation, "a range", *slot.field.metadata)]  # type: ignore[arg-type]
    )
    for end in values:
        try:
            adapter.validate_python(end)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UsageError(f"--space {name}: {message} (got {end!r} in {found}).") from None
    return found


def _whole(slot: _Slot) -> bool:
    return slot.field.annotation is int


__all__ = ["build_space", "known_ranges", "written_out"]
