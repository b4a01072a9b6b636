"""Settings without an effect: refused where none of the planned trials uses them, else reset to their default.

So no setting is recorded that changed nothing, and no two trials differ by one. Where a parameter has an effect is
declared with it (`when` of `wbcbench.contracts.param`) or derived here from the components.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wbcbench.contracts import Description
from wbcbench.contracts.params import identity, is_later, names_in, without_effect
from wbcbench.errors import UsageError
from wbcbench.registry import Registry
from wbcbench.scheduling.compatibility import adds_loss
from wbcbench.spec import Augmentation, ComponentSpec, Recipe, SplitSpec
from wbcbench.spec.request import Request
from wbcbench.spec.trial import BackboneSpec, each_of, equal_as_one

_FIELD = {"distiller": "kd"}


class Settings:
    """Resets what has no effect in a trial, and remembers what had none and what had one."""

    def __init__(self, request: Request, registry: Registry) -> None:
        self._request, self._registry = request, registry
        self._idle: dict[tuple[str, str, str, str], str] = {}
        """Section, component, parameter, value -> why it has no effect in some trial."""
        self._used: set[tuple[str, str, str, str]] = set()

    def component(self, kind: str, spec: ComponentSpec, **facts: Any) -> ComponentSpec:
        """The component with its parameters that have no effect at their defaults."""
        declared = self._registry.declared(kind, spec.name)
        default = declared.params.model_construct().model_dump(mode="json")
        idle = {
            name: f"it has one only where {when}{_now(when, {**facts, **spec.params})}"
            for name, when in without_effect(declared.params, spec.params, facts).items()
        }
        if kind == "distiller" and not facts.get("adds_loss", True) and spec.params["weight"] != default["weight"]:
            idle["weight"] = "here the distiller adds no loss of its own, and so has nothing to weigh"
        elif kind == "distiller" and not spec.params["weight"] and facts.get("adds_loss", True):
            changed = {n for n, v in spec.params.items() if n != "weight" and v != default.get(n)}
            idle |= dict.fromkeys(changed, "its weight is 0")
        for name, value in spec.params.items():
            key = (kind, spec.name, name, repr(value))
            if name in idle:
                self._idle[key] = idle[name]
            else:
                self._used.add(key)
        params = {**spec.params, **{name: default[name] for name in idle}}
        for name in idle:
            if is_later(declared.params.model_fields[name]):
                del params[name]
        return spec.model_copy(update={"params": params})

    def backbone(self, backbone: BackboneSpec, fusion: ComponentSpec) -> BackboneSpec:
        """The backbone as `component` returns it, or the default one for a fusion that builds none."""
        if self._registry.declared("fusion", fusion.name).fusion_traits.builds_backbone:
            if isinstance(backbone, ComponentSpec):
                return self.component("backbone", backbone)
            return equal_as_one({m: self.component("backbone", b) for m, b in backbone.items()})
        (default,) = each_of(Request().backbone[0])
        params = self._registry.declared("backbone", default.name).params
        return ComponentSpec(name=default.name, params=identity(params(**default.params)))

    def distillers(self, given: tuple[ComponentSpec, ...], modalities: int) -> tuple[ComponentSpec, ...]:
        """The distillers of a combination, each as `component` returns it."""
        return tuple(
            self.component("distiller", d, modalities=modalities, adds_loss=adds_loss(self._registry, d, given))
            for d in given
        )

    def recipe(
        self,
        recipe: Recipe,
        fusion: ComponentSpec,
        distillers: tuple[ComponentSpec, ...],
        policies: tuple[ComponentSpec, ...] = (),
    ) -> Recipe:
        """The recipe with fields that have no effect at their defaults."""
        idle = dict(self._idle_recipe(recipe, fusion, distillers, policies))
        default = Recipe()
        changed = {name: why for name, why in idle.items() if getattr(recipe, name) != getattr(default, name)}
        for name in Recipe.model_fields:
            key = ("training", "", name, repr(getattr(recipe, name)))
            if name in changed:
                self._idle[key] = changed[name]
            else:
                self._used.add(key)
        return recipe.model_copy(update={name: getattr(default, name) for name in changed})

    def _idle_recipe(
        self,
        recipe: Recipe,
        fusion: ComponentSpec,
        distillers: tuple[ComponentSpec, ...],
        policies: tuple[ComponentSpec, ...],
    ) -> Iterator[tuple[str, str]]:
        for name, when in without_effect(Recipe, recipe.model_dump(), {}).items():
            yield name, f"it has one only where {when}{_now(when, recipe.model_dump())}"
        if self._registry.declared("fusion", fusion.name).solved_once:
            for name in set(Recipe.model_fields) - {"class_weighting"}:
                yield name, f"fusion '{fusion.name}' is solved in one step and not trained"
        stepping = [d.name for d in distillers if self._registry.declared("distiller", d.name).role == "optimiser"]
        if stepping:
            yield "clip", f"distiller '{stepping[0]}' takes the optimiser's step by itself"
        joint = "joint" in self._registry.declared("fusion", fusion.name).fusion_traits.emits
        for policy in policies:
            replaced = self._registry.declared("policy", policy.name).policy_traits.replaces_losses
            if replaced == "all" or (replaced == "modality" and not joint):
                yield "label_smoothing", f"policy '{policy.name}' replaces every loss that it would change"

    def check(self) -> None:
        """Raises `UsageError` for a setting that the user gave and that has no effect in any planned trial."""
        for (kind, component, name, value), why in self._idle.items():
            if (kind, component, name, value) in self._used or self._reaches_another(kind, component, name):
                continue
            section = _FIELD.get(kind, kind)
            where = f"of {kind} '{component}' " if component else ""
            raise UsageError(
                f"{section}.{name} = {value.strip(chr(39))} {where}has no effect: {why}. Leave it out."
            )

    def _reaches_another(self, kind: str, component: str, name: str) -> bool:
        """Whether it was given by `--set` for all components of the section, and another one uses it."""
        if name not in self._request.overrides.get(_FIELD.get(kind, kind), {}):
            return False
        return any(k == kind and c != component and n == name for k, c, n, _ in self._used)


def _now(when: str, known: dict[str, Any]) -> str:
    """`, but it is 1`: what the parameters and facts of a condition are."""
    found = [f"{name} is {str(known[name]).lower()}" for name in names_in(when) if name in known]
    return f", and {' and '.join(found)}" if found else ""


def settled_split(split: SplitSpec, description: Description) -> tuple[SplitSpec, str]:
    """The split as it is identified, and a note if that is another than the one asked for.

    Without an official split, `official` and `stratified` are the same and have one name.

    Raises:
        UsageError: a field has no effect on this data set.
    """
    sizes, default = description.split_sizes, SplitSpec()
    if split.unit is not None and not description.groups:
        raise UsageError(f"split.unit = {split.unit} has no effect: the data set has no groups. Leave it out.")
    folds = description.fold_sizes
    if folds and (split.scheme == "official_folds" or (split.scheme == "official" and sizes is None)):
        given = all(one.get("val") for one in folds.values())
        for name in ("test", "val", "seed", "unit") if given else ("test",):
            if getattr(split, name) != getattr(default, name):
                raise UsageError(
                    f"split.{name} = {getattr(split, name)} has no effect: the data set has folds of its own, "
                    "which are used. Leave it out, or choose another split, as with --set split.scheme=kfold"
                )
        note = f"The data set has {len(folds)} folds of its own: official means official_folds."
        return split, note if split.scheme == "official" else ""
    if split.folded:
        return split, ""
    if sizes is None:
        if split.scheme == "official":
            return split, ""
        note = "The data set has no split of its own: split.scheme stratified is what official does here."
        return split.model_copy(update={"scheme": "official"}), note
    if split.scheme == "official":
        unused = ("val", "test", "seed", "unit") if sizes.get("val") else ("test",)
        for name in unused:
            if getattr(split, name) != getattr(default, name):
                raise UsageError(
                    f"split.{name} = {getattr(split, name)} has no effect: the data set has a split of its own, "
                    f"which is used ({', '.join(f'{n} {side}' for side, n in sizes.items())}). Leave it out, or "
                    "use --set split.scheme=stratified"
                )
    return split, ""


def check_augmentation(
    augmentation: Augmentation, side: int, modalities: tuple[str, ...], vectors: frozenset[str], epochs: int
) -> None:
    """Raises `UsageError` for a field that changes nothing.

    Args:
        augmentation: as requested.
        side: of the images, in pixels.
        modalities: that a student or a teacher reads.
        vectors: the data set's modalities that are numbers.
        epochs: most that a student or a teacher trains.
    """
    a, default = augmentation, Augmentation()
    numbers = tuple(m for m in modalities if m in vectors)
    images = tuple(m for m in modalities if m not in vectors)
    for name, able, kind in (("intensity", images, "images"), ("noise", images, "images"),
                             ("vector_noise", numbers, "numbers")):  # fmt: skip
        value = getattr(a, name)
        unknown = sorted(set(value) - set(able)) if isinstance(value, dict) else []
        if unknown:
            raise UsageError(
                f"augmentation.{name} has values for {', '.join(unknown)}, but the modalities "
                f"{f'that are {kind} ' if numbers else ''}are {', '.join(able) or 'none'}. Correct the names."
            )
    if a.vector_noise and not numbers:
        raise UsageError("augmentation.vector_noise has no effect: no modality is numbers. Leave it out.")
    why = {
        "rotate": "with interpolate off images are turned by right angles only, the nearest to an angle up to "
        f"{a.rotate:g}, which is 0. Use more than 45, or --set augmentation.interpolate=true",
        "shift": f"with interpolate off images are shifted by whole pixels only, and {a.shift:g} of {side} pixels "
        "is less than half of one. Use more, or --set augmentation.interpolate=true",
        "interpolate": "nothing is interpolated without rotate, scale or shift. Leave it out",
        "views": f"training ends after {epochs} epochs, with one view of each cell. Use fewer, or leave it out"
        if a.random
        else "nothing is random, so that there is one view. Leave it out",
    }
    idle = {
        "rotate": not a.interpolate and 0 < a.rotate <= 45,
        "shift": not a.interpolate and 0 < a.shift * side <= 0.5,
        "interpolate": a.interpolate and not (a.rotate or a.scale or a.shift),
        "views": a.views >= epochs or (a.views > 0 and not a.random),
    }
    for name, nothing in idle.items():
        if nothing and getattr(a, name) != getattr(default, name):
            raise UsageError(f"augmentation.{name} = {getattr(a, name)} has no effect: {why[name]}.")


def check_views(request: Request) -> None:
    """Raises `UsageError` for weaker views of teachers that are not weaker."""
    if request.teacher.views == "weak" and request.augmentation == request.augmentation.weak():
        raise UsageError(
            "teacher.views = weak has no effect: the student's views have no intensity, noise or cutout that "
            "teachers could be spared. Leave it out, or augment more, as with --set augmentation.cutout=0.4"
        )


def check_routing(
    registry: Registry, routing: ComponentSpec, counts: list[int], unused_fallback: bool, description: str
) -> None:
    """Raises `UsageError` for a routing, or a fallback, that changes nothing.

    Args:
        registry: of components.
        routing: as requested.
        counts: how many teachers each route of the student has.
        unused_fallback: whether every route has the same teachers without `fallback`.
        description: of the student, for messages.
    """
    least = registry.declared("routing", routing.name).min_teachers
    if counts and max(counts) < least:
        raise UsageError(
            f"Routing '{routing.name}' combines the teachers of a route, but each route of {description} has one, "
            "so it changes nothing. Leave --routing out, or give more teachers: --set teacher.seeds=0,1"
        )
    if unused_fallback:
        raise UsageError(
            f"routing.fallback = {routing.params['fallback']} has no effect: every route of {description} has "
            "teachers of its own. Leave it out."
        )


__all__ = ["Settings", "check_augmentation", "check_routing", "check_views", "settled_split"]
