"""Turns choices in a request into components with every parameter written out, including the teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from wbcbench.contracts.needs import assign_teachers, route_names
from wbcbench.contracts.params import DIGEST_KEY, identity
from wbcbench.data.cache import file_digest
from wbcbench.errors import IncompatibleError, UsageError, did_you_mean
from wbcbench.registry import Registry, qualified_name
from wbcbench.scheduling.compatibility import adds_loss, needs_of, unbalanced
from wbcbench.scheduling.settings import Settings, check_routing
from wbcbench.spec import ComponentSpec, Method, Protocol, Recipe, Trial
from wbcbench.spec.load import validate
from wbcbench.spec.request import STUDENT, Choice, Request
from wbcbench.spec.trial import IMPUTE, chosen_imputer
from wbcbench.spec.weights import BALANCED, weight_word


def component(
    registry: Registry,
    kind: str,
    choice: Choice,
    request: Request,
    siblings: Any = (),
    section: str | None = None,
) -> ComponentSpec:
    """A component with all parameters written out: defaults, then inline parameters, then `--set`."""
    resolved = registry.resolve(kind, choice.name)
    declared = registry.declaration(resolved.component)
    params_class = declared.params
    overrides = request.overrides.get(section or kind, {})
    imputer: dict[str, str] = {}
    if kind == "fusion" and IMPUTE not in params_class.model_fields:
        missing = declared.fusion_traits.missing
        everywhere = {IMPUTE: overrides[IMPUTE]} if IMPUTE in overrides and missing == "impute" else {}
        inline = {**choice.params, **everywhere}
        imputer = chosen_imputer(inline, choice.name, missing)
        overrides = {k: v for k, v in overrides.items() if k != IMPUTE}
        choice = Choice(name=choice.name, params={k: v for k, v in choice.params.items() if k != IMPUTE})
    mine = {k: v for k, v in overrides.items() if k in params_class.model_fields}
    for key in overrides:
        if key not in params_class.model_fields and not _someone_has(registry, kind, siblings, key):
            known = sorted(params_class.model_fields)
            raise UsageError(
                f"--set {section or kind}.{key}: {kind} '{choice.name}' has no such parameter."
                f"{did_you_mean(key, known)} It has: {', '.join(known) or 'none'}."
            )
    given = {**resolved.params, **choice.params, **mine}
    word = weight_word(given, params_class, choice.name) if kind == "distiller" else None
    given = given if word is None else {k: v for k, v in given.items() if k != "weight"}
    params: BaseModel = validate(params_class, given, f"{kind} {choice.name}")
    params = _with_digests(params, f"{kind} {choice.name}")
    named = identity(params) | imputer | ({} if word is None else {"weight": word})
    return ComponentSpec(name=qualified_name(resolved.component), params=named)


def distillers_of(registry: Registry, kd: tuple[Choice, ...], request: Request) -> tuple[ComponentSpec, ...]:
    """The distillers of a combination. One rule for all weights that nobody gave: balanced, where possible."""
    everything = [c for combination in request.kd for c in combination]
    found = tuple(component(registry, "distiller", c, request, everything, "kd") for c in kd)
    given = request.overrides.get("kd", {})

    def settled(choice: Choice, spec: ComponentSpec) -> ComponentSpec:
        if "weight" in {**registry.resolve("distiller", choice.name).params, **choice.params, **given}:
            return spec
        if (
            spec.name == "none"
            or not adds_loss(registry, spec, found)
            or unbalanced(registry, spec, request.training)
        ):
            return spec
        return spec.model_copy(update={"params": {**spec.params, "weight": BALANCED}})

    return tuple(settled(c, d) for c, d in zip(kd, found, strict=True))


def with_carried(request: Request, registry: Registry) -> Request:
    """The request, where what was written for a transform of logits is said of the loss that it acts on.

    `lskd:weight=9:temperature=2+logits` is `lskd+logits:weight=9:temperature=2`: Hinton's loss on standardised
    logits, with the weight and temperature of LSKD's paper. With several such losses nothing is moved.

    Raises:
        UsageError: both were given, and differ.
    """
    return request.model_copy(update={"kd": tuple(_carried(kd, registry) for kd in request.kd)})


def _carried(kd: tuple[Choice, ...], registry: Registry) -> tuple[Choice, ...]:
    named = tuple(ComponentSpec(name=c.name) for c in kd)
    carriers = [
        i
        for i, d in enumerate(named)
        if registry.declared("distiller", d.name).role == "transform" and not adds_loss(registry, d, named)
    ]
    targets = [
        i for i, d in enumerate(named)
        if adds_loss(registry, d, named) and set(needs_of(registry, d).student) == {"logits"}
    ]  # fmt: skip
    if len(carriers) != 1 or len(targets) != 1:
        return kd
    carrier, target = kd[carriers[0]], kd[targets[0]]
    fields = registry.declared("distiller", target.name).params.model_fields
    moved = {k: v for k, v in carrier.params.items() if k in fields}
    for name, value in moved.items():
        if target.params.get(name, value) != value:
            raise UsageError(
                f"kd {carrier.name}+{target.name}: expected {name} once, since {carrier.name} only changes the "
                f"logits that {target.name} reads, but got {value} and {target.params[name]}. Leave out "
                f"{carrier.name}'s."
            )
    new = list(kd)
    new[carriers[0]] = Choice(
        name=carrier.name, params={k: v for k, v in carrier.params.items() if k not in moved}
    )
    new[targets[0]] = Choice(name=target.name, params={**target.params, **moved})
    return tuple(new)


def _with_digests(params: BaseModel, where: str) -> BaseModel:
    """Fill in parameters that are declared as the digest of the file that another parameter names."""
    found: dict[str, str] = {}
    for name, field_info in type(params).model_fields.items():
        extra = field_info.json_schema_extra
        source = extra.get(DIGEST_KEY) if isinstance(extra, dict) else None
        path = getattr(params, str(source)) if source else ""
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{where}: expected a file, but {source}={path} is not one. Check the path.")
            found[name] = file_digest(Path(path))
    return params.model_copy(update=found)


def _someone_has(registry: Registry, kind: str, siblings: Any, key: str) -> bool:
    """Whether another of the listed components has the parameter, so that this one may ignore it."""
    return any(key in registry.declared(kind, s.name).params.model_fields for s in siblings)


@dataclass(frozen=True)
class Offer:
    """One teacher, or the head of a chain of teachers."""

    fusion: ComponentSpec
    reads: tuple[str, ...]
    backbones: tuple[ComponentSpec, ...]
    """One size, or a chain in which each is taught by the next."""
    seed: int


class TeacherPool:
    """Teachers are separate trials: per modality (or for all, if a fusion is requested), size and seed."""

    def __init__(
        self,
        request: Request,
        registry: Registry,
        base: Protocol,
        modalities: tuple[str, ...],
        settings: Settings,
    ) -> None:
        self._request = request
        self._settings = settings
        self._registry = registry
        self._base = base
        self._modalities = modalities
        # `--set fusion.*` and similar settings apply to the student only, not to a teacher's own components.
        self._backbones = tuple(component(registry, "backbone", b, Request()) for b in request.teacher.backbone)
        self._fusions = tuple(component(registry, "fusion", f, Request()) for f in request.teacher.fusion)

    def assign(
        self,
        fusion: ComponentSpec,
        modalities: tuple[str, ...],
        distillers: tuple[ComponentSpec, ...],
        seed: int,
        fold: int | None,
    ) -> tuple[ComponentSpec, tuple[Trial, ...]]:
        """The routing, and the teachers that some route of the student (of this seed and fold) uses.

        Raises:
            IncompatibleError: they do not work together.
            UsageError: the routing, or its fallback, would have no effect.
        """
        request, registry = self._request, self._registry
        routing = component(registry, "routing", request.routing, request)
        declared = registry.declared("routing", routing.name)
        emits = registry.declared("fusion", fusion.name).fusion_traits.emits
        offers = self._offers(declared.chain, seed)
        routes, reads = route_names(emits, modalities), [frozenset(o.reads) for o in offers]
        fallback = str(routing.params.get("fallback", ""))
        assigned = assign_teachers(routes, reads, declared.pairing, fallback)
        check_routing(
            registry,
            routing,
            [len(one.teachers) for one in assigned],
            bool(fallback) and assigned == assign_teachers(routes, reads, declared.pairing),
            f"fusion '{fusion.name}'",
        )
        routing = self._settings.component("routing", routing, modalities=len(modalities))
        alone = [d.name for d in distillers if registry.declared("distiller", d.name).replaces_head]
        crowded = [one for one in assigned if len(one.teachers) > 1]
        if alone and crowded:
            raise IncompatibleError(
                f"Distiller '{alone[0]}' takes over one teacher's classifier, but route '{crowded[0].route}' of "
                f"fusion '{fusion.name}' has {len(crowded[0].teachers)} teachers. Choose a fusion with a head per "
                "modality, such as independent, or one teacher for all: --set teacher.fusion=early"
            )
        used = sorted({i for one in assigned for i in one.teachers})
        return routing, tuple(self._trial(offers[i], routing, distillers, fold) for i in used)

    @property
    def vary(self) -> Literal["fixed", "student"]:
        """Whether every seed of a student has teachers of its own."""
        return STUDENT if self._request.teacher.seeds == STUDENT else "fixed"

    def _offers(self, chain: bool, seed: int) -> list[Offer]:
        sizes = [self._backbones] if chain else [(b,) for b in self._backbones]
        if chain and len(self._backbones) < 2:
            raise IncompatibleError(
                "A chain needs at least two teachers: the assistant first, as in "
                "--teacher cellnet:width=20,cellnet:width=32"
            )
        requested = self._request.teacher.seeds
        offers, seeds = [], (seed,) if requested == STUDENT else requested
        for fusion in self._fusions:
            high = self._registry.declared("fusion", fusion.name).fusion_traits.arity[1]
            groups = [(m,) for m in self._modalities] if high == 1 else [self._modalities]
            offers += [Offer(fusion, g, s, one) for g in groups for s in sizes for one in seeds]
        return offers

    def _trial(
        self, offer: Offer, routing: ComponentSpec, distillers: tuple[ComponentSpec, ...], fold: int | None
    ) -> Trial:
        request = self._request
        recipe: Recipe = validate(
            Recipe, {**request.training.model_dump(), **request.teacher.training}, "teacher.training"
        )
        budget = self._base.budget
        if request.teacher.epochs is not None:
            budget = budget.model_copy(update={"epochs": request.teacher.epochs})
        protocol = self._base.model_copy(
            update={
                "modalities": offer.reads,
                "budget": budget,
                "image_size": request.teacher.image_size or self._base.image_size,
            }
        )
        trial: Trial | None = None
        for backbone in reversed(offer.backbones):
            settled = self._settings.distillers(distillers, len(offer.reads))
            taught: dict[str, Any] = {}
            if trial:
                taught = {
                    "distillers": settled,
                    "routing": routing,
                    "teachers": (trial,),
                    "teacher_seeds": self.vary,
                }
            # A teacher without teachers learns from labels only, whatever share of the labels its student gets.
            own = recipe if trial else recipe.model_copy(update={"task_weight": 1.0})
            method = Method(
                fusion=self._settings.component("fusion", offer.fusion, modalities=len(offer.reads)),
                backbone=self._settings.backbone(backbone, offer.fusion),
                recipe=self._settings.recipe(own, offer.fusion, distillers if trial else ()),
            ).model_copy(update=taught)
            trial = Trial(protocol=protocol, method=method, seed=offer.seed, fold=fold)
        assert trial is not None
        return trial
