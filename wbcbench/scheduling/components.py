"""Turns choices in a request into components with every parameter written out, including the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wbcbench.contracts.needs import assign_teachers, route_names
from wbcbench.contracts.params import Parameters, identity
from wbcbench.data.answers import AnswerFile, read_answers
from wbcbench.data.cache import with_digests
from wbcbench.errors import IncompatibleError, UsageError, did_you_mean
from wbcbench.registry import Registry, qualified_name
from wbcbench.scheduling.compatibility import (
    adds_loss,
    check_backbones,
    check_kinds,
    check_outside,
    check_weights,
    needs_of,
    unbalanced,
)
from wbcbench.scheduling.settings import Settings, check_routing
from wbcbench.spec import ComponentSpec, Method, Protocol, Recipe, Trial
from wbcbench.spec.load import validate
from wbcbench.spec.request import FILE, STUDENT, BackboneChoice, Choice, Request, TeacherRequest
from wbcbench.spec.trial import IMPUTE, BackboneSpec, Outside, chosen_imputer, each_of, equal_as_one
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
    if kind == "backbone" and choice.name == FILE:
        raise UsageError(f"backbone: '{FILE}:' names a teacher's answers. Give it with --teacher.")
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
    params: Parameters = validate(params_class, given, f"{kind} {choice.name}")
    params = with_digests(params, f"{kind} {choice.name}")
    named = identity(params) | imputer | ({} if word is None else {"weight": word})
    return ComponentSpec(name=qualified_name(resolved.component), params=named)


VECTOR_BACKBONE = Choice(name="mlp")
"""For modalities that are numbers, where the user's backbone reads images."""


def backbone_specs(
    registry: Registry,
    choices: Sequence[BackboneChoice],
    request: Request,
    modalities: tuple[str, ...],
    vectors: frozenset[str],
    option: str,
) -> tuple[list[BackboneSpec], list[str]]:
    """The backbones of a list of alternatives, in the order of the modalities; and notes.

    One for images is replaced by `VECTOR_BACKBONE` for modalities that are numbers.

    Args:
        modalities: of the data set, that are read.
        vectors: the data set's modalities that are numbers.
        option: for messages.

    Raises:
        UsageError: one is for a modality that is not read, or a modality that is read has none.
    """
    numbers = [m for m in modalities if m in vectors]
    siblings = [*(c for b in choices for c in each_of(b)), *([VECTOR_BACKBONE] if numbers else [])]
    found: list[BackboneSpec] = []
    notes: dict[str, None] = {}
    for choice in choices:
        if not isinstance(choice, Choice):
            check_modalities(choice, modalities, option)
            found.append({m: component(registry, "backbone", choice[m], request, siblings) for m in modalities})
            continue
        one = component(registry, "backbone", choice, request, siblings)
        if not numbers or registry.declared("backbone", one.name).reads == "vectors":
            found.append(one)
            continue
        other = component(registry, "backbone", VECTOR_BACKBONE, request, siblings)
        found.append({m: other if m in vectors else one for m in modalities})
        example = ",".join(f"{m}={(other if m in vectors else one).model}" for m in modalities)
        notes[
            f"{' and '.join(numbers)} {'is' if len(numbers) == 1 else 'are'} numbers, which {one.model} does not "
            f"read: {other.model} is used there. Choose another with --{option.partition('.')[0]} {example}"
        ] = None
    return found, list(notes)


def check_modalities(choice: BackboneChoice, modalities: tuple[str, ...], option: str) -> None:
    """Raises `UsageError` for backbones by modality that are not one for each of these."""
    if isinstance(choice, Choice):
        return
    for name in choice:
        if name not in modalities:
            raise UsageError(
                f"{option}: expected backbones by modality ({', '.join(modalities)}), but got one for "
                f"'{name}'.{did_you_mean(name, modalities)}"
            )
    if lacking := [m for m in modalities if m not in choice]:
        raise UsageError(
            f"{option}: expected a backbone for each of {', '.join(modalities)}, but got none for "
            f"{', '.join(lacking)}. Add {','.join(f'{m}=NAME' for m in lacking)}"
        )


def backbone_for(backbone: BackboneSpec, reads: tuple[str, ...]) -> BackboneSpec:
    """What a network that reads these modalities is built from."""
    return backbone if isinstance(backbone, ComponentSpec) else equal_as_one({m: backbone[m] for m in reads})


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


def _someone_has(registry: Registry, kind: str, siblings: Any, key: str) -> bool:
    """Whether another of the listed components has the parameter, so that this one may ignore it."""
    return any(key in registry.declared(kind, s.name).params.model_fields for s in siblings)


@dataclass(frozen=True)
class Offer:
    """One teacher, or the head of a chain of teachers."""

    fusion: ComponentSpec
    reads: tuple[str, ...]
    backbones: tuple[BackboneSpec, ...]
    """One size, or a chain in which each is taught by the next."""
    seed: int


def _all_built(sizes: tuple[BackboneSpec, ...], reads: tuple[str, ...]) -> bool:
    """Whether there is a backbone for each of these modalities; the others have a teacher from outside."""
    return all(isinstance(b, ComponentSpec) or set(reads) <= set(b) for b in sizes)


class TeacherPool:
    """Teachers are separate trials: per modality (or for all, if a fusion is requested), size and seed.

    Those from outside are files of answers, for all modalities or for one.
    """

    def __init__(
        self,
        request: Request,
        registry: Registry,
        base: Protocol,
        modalities: tuple[str, ...],
        settings: Settings,
        classes: tuple[str, ...],
        vectors: frozenset[str],
    ) -> None:
        """`classes` and `vectors`: of the data set. Raises `UsageError` for what cannot teach."""
        self._request = request
        self._vectors = vectors
        self._settings = settings
        self._registry = registry
        self._base = base
        self._modalities = modalities
        # `--set fusion.*` and similar settings apply to the student only, not to a teacher's own components.
        backbones: list[BackboneSpec] = []
        outside: list[Outside] = []
        self.files: dict[str, AnswerFile] = {}
        """Digest -> answers of a teacher from outside."""
        self.notes: list[str] = []
        for choice in request.teacher.backbone:
            check_modalities(choice, modalities, "teacher.backbone")
            each = {"": choice} if isinstance(choice, Choice) else choice
            for m, file in ((m, c) for m, c in each.items() if c.name == FILE):
                outside.append(self._open(file, (m,) if m else modalities, classes))
            rest = {m: c for m, c in each.items() if c.name != FILE}
            if rest:
                trained = rest.get("") or rest
                mine = tuple(m for m in modalities if m in rest) or modalities
                specs, notes = backbone_specs(registry, [trained], Request(), mine, vectors, "teacher.backbone")
                backbones += specs
                self.notes += notes
        self._backbones, self._outside = tuple(backbones), tuple(outside)
        self._fusions = tuple(component(registry, "fusion", f, Request()) for f in request.teacher.fusion)
        if outside:
            self._check_outside()

    def _open(self, choice: Choice, reads: tuple[str, ...], classes: tuple[str, ...]) -> Outside:
        """A teacher from outside. Raises `UsageError` unless its file is as it must be."""
        if set(choice.params) != {"path"}:
            raise UsageError(f"teacher: expected {FILE}:PATH, but got the parameters {sorted(choice.params)}.")
        found = read_answers(Path(str(choice.params["path"])), classes)
        self.files[found.digest] = found
        return Outside(name=found.name, digest=found.digest, reads=reads, views=found.views, embedding=found.width)

    def _check_outside(self) -> None:
        """Raises `UsageError` for a network that would read a modality that has a file of answers instead."""
        by_modality = [b for b in self._backbones if not isinstance(b, ComponentSpec)]
        partial = any(set(b) != set(self._modalities) for b in by_modality)
        joint = [f.name for f in self._fusions if not self._alone(f)]
        if partial and joint:
            raise UsageError(
                f"teacher.fusion={joint[0]} reads all modalities, so that a file of answers cannot replace the "
                f"backbone of one. Give it for all: --teacher {FILE}:PATH"
            )

    def check_used(self) -> None:
        """Raises `UsageError` for settings of trained teachers where there are none."""
        given, default = self._request.teacher, TeacherRequest()
        fields = [n for n in TeacherRequest.model_fields if n != "backbone"]
        idle = [n for n in fields if getattr(given, n) != getattr(default, n)]
        if idle and self._outside and not self._backbones:
            raise UsageError(
                f"teacher.{idle[0]} has no effect: every teacher is a file of answers, and none is trained. "
                "Leave it out."
            )

    def _alone(self, fusion: ComponentSpec) -> bool:
        """Whether a teacher of this fusion reads one modality."""
        return self._registry.declared("fusion", fusion.name).fusion_traits.arity[1] == 1

    def assign(
        self,
        fusion: ComponentSpec,
        modalities: tuple[str, ...],
        distillers: tuple[ComponentSpec, ...],
        seed: int,
        fold: int | None,
    ) -> tuple[ComponentSpec, tuple[Trial, ...], tuple[Outside, ...]]:
        """The routing, and the teachers that some route of the student (of this seed and fold) uses: those that
        are trained, and those from outside.

        Raises:
            IncompatibleError: they do not work together.
            UsageError: the routing, or its fallback, would have no effect.
        """
        request, registry = self._request, self._registry
        routing = component(registry, "routing", request.routing, request)
        declared = registry.declared("routing", routing.name)
        emits = registry.declared("fusion", fusion.name).fusion_traits.emits
        offers = self._offers(declared.chain, seed)
        routes = route_names(emits, modalities)
        reads = [frozenset(r) for r in (*(o.reads for o in offers), *(o.reads for o in self._outside))]
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
        outside = tuple(self._outside[i - len(offers)] for i in used if i >= len(offers))
        for teacher in outside:
            check_outside(registry, distillers, teacher)
        trained = [offers[i] for i in used if i < len(offers)]
        return routing, tuple(self._trial(o, routing, distillers, fold) for o in trained), outside

    @property
    def vary(self) -> Literal["fixed", "student"]:
        """Whether every seed of a student has teachers of its own."""
        return STUDENT if self._request.teacher.seeds == STUDENT else "fixed"

    def _offers(self, chain: bool, seed: int) -> list[Offer]:
        if chain and self._outside:
            raise IncompatibleError(
                "A chain is of teachers that are trained, each by the next, but a file of answers was given. Use "
                "it with another --routing."
            )
        sizes = [self._backbones] if chain else [(b,) for b in self._backbones]
        if chain and len(self._backbones) < 2:
            raise IncompatibleError(
                "A chain needs at least two teachers: the assistant first, as in "
                "--teacher cellnet:width=20,cellnet:width=32"
            )
        requested = self._request.teacher.seeds
        offers, seeds = [], (seed,) if requested == STUDENT else requested
        for fusion in self._fusions:
            groups = [(m,) for m in self._modalities] if self._alone(fusion) else [self._modalities]
            offers += [
                Offer(fusion, g, s, one) for g in groups for s in sizes if _all_built(s, g) for one in seeds
            ]
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
        for backbone in (backbone_for(b, offer.reads) for b in reversed(offer.backbones)):
            check_kinds(self._registry, offer.fusion, backbone, offer.reads, self._vectors)
            check_backbones(self._registry, offer.fusion, backbone)
            check_weights(self._registry, offer.fusion, backbone)
            settled = self._settings.distillers(distillers, len(offer.reads))
            taught: dict[str, Any] = {}
            if trial:
                taught = {
                    "distillers": settled,
                    "routing": routing,
                    "teachers": (trial,),
                    "teacher_seeds": self.vary,
                    "teacher_views": request.teacher.views,
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
