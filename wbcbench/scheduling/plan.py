"""From a request to trials in dependency order: every teacher once, before whoever needs it.

Everything that cannot work is refused here, before any training and without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from wbcbench.contracts import Dataset, Description
from wbcbench.contracts.params import DIGEST_KEY
from wbcbench.data.cache import file_digest
from wbcbench.errors import IncompatibleError, UsageError, did_you_mean
from wbcbench.registry import Registry, qualified_name
from wbcbench.spec import Component, Method, Protocol, Recipe, Trial
from wbcbench.spec.lessons import pair, route_names
from wbcbench.spec.load import validate
from wbcbench.spec.request import Choice, Request


@dataclass(frozen=True)
class PlannedTrial:
    """A trial, why it is run, and the trials that must be there first."""

    trial: Trial
    role: Literal["student", "teacher"]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(t.id for t in self.trial.method.teachers)


@dataclass
class Plan:
    """What a request comes to."""

    trials: list[PlannedTrial]
    dataset: Dataset
    description: Description
    notes: list[str] = field(default_factory=list)
    """What a reader of the results must know."""


def make_plan(request: Request, registry: Registry) -> Plan:
    """Resolve names, fill in defaults, check that everything fits, and order by dependency.

    Raises:
        UsageError: unknown names or parameters, or components that cannot work together.
        PluginError: a component's plugin failed.
    """
    notes: list[str] = []
    dataset_spec, dataset = _dataset(request, registry)
    description = dataset.describe()
    if description.pseudo_multimodal:
        notes.append("Pseudo-multimodal: the modalities were computed from one image; no new light was measured.")
    modalities = _pick(request.modalities, description, "modalities") or tuple(description.modalities)
    teacher_modalities = _pick(request.teacher_modalities, description, "teacher_modalities") or modalities
    size = request.image_size or description.image_size
    if size is None:
        raise UsageError("The images have different sizes. Choose one side for all: --image-size 64")

    base = Protocol(
        dataset=dataset_spec,
        modalities=modalities,
        image_size=size,
        fingerprint=description.fingerprint,
        split=request.split,
        budget=request.budget,
        augmentation=request.augmentation,
        selection=request.selection,
    )
    fusions = [_component(registry, "fusion", c, request, request.fusion) for c in request.fusion]
    backbones = [_component(registry, "backbone", c, request, request.backbone) for c in request.backbone]
    policies = tuple(_component(registry, "policy", c, request, request.policy) for c in request.policy)
    everything = [c for combination in request.kd for c in combination]
    recipes = [
        tuple(_component(registry, "distiller", c, request, everything, "kd") for c in combination)
        for combination in request.kd
    ]
    teacher_pool = _Teachers(request, registry, base, teacher_modalities)

    students: dict[str, Trial] = {}
    for fusion, backbone, kd, seed in product(fusions, backbones, recipes, request.seeds):
        distillers = tuple(d for d in kd if d.name != "none")
        for protocol in _protocols(registry, fusion, base):
            _check_fit(registry, fusion, backbone, distillers, description, base)
            routing: Component | None = None
            teachers: tuple[Trial, ...] = ()
            if distillers:
                routing, teachers = teacher_pool.assign(fusion, protocol.modalities)
            method = Method(
                fusion=fusion,
                backbone=backbone,
                recipe=request.training,
                policies=policies,
                distillers=distillers,
                routing=routing,
                teachers=teachers,
            )
            trial = Trial(protocol=protocol, method=method, seed=seed)
            students.setdefault(trial.id, trial)
    ordered: dict[str, PlannedTrial] = {}
    for trial in students.values():
        _add_teachers(trial, ordered)
    for trial in students.values():
        ordered[trial.id] = PlannedTrial(trial, "student")
    # A trial asked for outright that also teaches keeps its place among the teachers.
    return Plan(list(ordered.values()), dataset, description, notes)


def _add_teachers(trial: Trial, ordered: dict[str, PlannedTrial]) -> None:
    for teacher in trial.method.teachers:
        _add_teachers(teacher, ordered)
        ordered.setdefault(teacher.id, PlannedTrial(teacher, "teacher"))


def _dataset(request: Request, registry: Registry) -> tuple[Component, Dataset]:
    resolved = registry.resolve("dataset", request.dataset.name)
    cls: Any = registry.load(resolved.component)
    given = {**resolved.params, **request.dataset.params, **request.overrides.get("dataset", {})}
    params = validate(cls.Params, given, f"dataset {request.dataset.name}")
    dataset: Dataset = cls(params)
    return Component(name=qualified_name(resolved.component), params=dataset.public_params()), dataset


def _component(
    registry: Registry,
    kind: str,
    choice: Choice,
    request: Request,
    siblings: Any = (),
    section: str | None = None,
) -> Component:
    """A component with all parameters written out: its defaults, then inline ones, then `--set`."""
    resolved = registry.resolve(kind, choice.name)
    params_class = registry.declaration(resolved.component).params
    overrides = request.overrides.get(section or kind, {})
    mine = {k: v for k, v in overrides.items() if k in params_class.model_fields}
    for key in overrides:
        if key not in params_class.model_fields and not _someone_has(registry, kind, siblings, key):
            known = sorted(params_class.model_fields)
            raise UsageError(
                f"--set {section or kind}.{key}: {kind} '{choice.name}' has no such parameter."
                f"{did_you_mean(key, known)} It has: {', '.join(known) or 'none'}."
            )
    given = {**resolved.params, **choice.params, **mine}
    params: BaseModel = validate(params_class, given, f"{kind} {choice.name}")
    params = _with_digests(params, f"{kind} {choice.name}")
    return Component(name=qualified_name(resolved.component), params=params.model_dump(mode="json"))


def _with_digests(params: BaseModel, where: str) -> BaseModel:
    """Fill in parameters that are declared to hold the digest of a file that another one names."""
    found: dict[str, str] = {}
    for name, field_info in type(params).model_fields.items():
        extra = field_info.json_schema_extra
        source = extra.get(DIGEST_KEY) if isinstance(extra, dict) else None
        path = getattr(params, str(source)) if source else ""
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{where}: expected a file, but {source}={path} is none. Check the path.")
            found[name] = file_digest(Path(path))
    return params.model_copy(update=found)


def _someone_has(registry: Registry, kind: str, siblings: Any, key: str) -> bool:
    """Whether another of the listed components has the parameter, so that this one may skip it."""
    return any(
        key in registry.declaration(registry.resolve(kind, s.name).component).params.model_fields for s in siblings
    )


def _pick(wanted: tuple[str, ...] | None, description: Description, what: str) -> tuple[str, ...]:
    known = tuple(description.modalities)
    for name in wanted or ():
        if name not in known:
            raise UsageError(
                f"{what}: the data set has no modality '{name}'.{did_you_mean(name, known)} "
                f"It has: {', '.join(known)}."
            )
    # canonical order, so that the order in which a user lists them is no part of the identity
    return tuple(m for m in known if m in (wanted or ()))


def _protocols(registry: Registry, fusion: Component, base: Protocol) -> list[Protocol]:
    """The protocol, or one per modality for a fusion of exactly one; refuses an arity that cannot fit."""
    low, high = registry.declaration(registry.resolve("fusion", fusion.name).component).arity
    count = len(base.modalities)
    if high == 1 and count > 1:
        return [base.model_copy(update={"modalities": (m,)}) for m in base.modalities]
    if count < low or (high is not None and count > high):
        wants = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        raise IncompatibleError(
            f"Fusion '{fusion.name}' takes {wants} modalities, but the protocol has {count} "
            f"({', '.join(base.modalities)}). Choose them with --modalities."
        )
    return [base]


def _check_fit(
    registry: Registry,
    fusion: Component,
    backbone: Component,
    distillers: tuple[Component, ...],
    description: Description,
    base: Protocol,
) -> None:
    scalable = registry.declaration(registry.resolve("backbone", backbone.name).component).scalable
    if fusion.params.get("width", 1) != 1 and not scalable:
        raise IncompatibleError(
            f"Fusion '{fusion.name}' asks for width {fusion.params['width']:g}, but backbone '{backbone.name}' "
            "cannot be scaled. Choose a wider model, or --backbone cellnet."
        )
    for distiller in distillers:
        needs = registry.declaration(registry.resolve("distiller", distiller.name).component).needs
        if len(description.classes) < needs.min_classes:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' needs at least {needs.min_classes} classes, but the data set "
                f"has {len(description.classes)}. 'logits' works with two."
            )
        if base.budget.batch_size < needs.min_batch:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' needs batches of at least {needs.min_batch}, but batch_size "
                f"is {base.budget.batch_size}."
            )


class _Teachers:
    """The teachers a request offers: one `single` trial per modality and teacher seed."""

    def __init__(self, request: Request, registry: Registry, base: Protocol, modalities: tuple[str, ...]) -> None:
        self._request = request
        self._registry = registry
        self._base = base
        self._modalities = modalities

    def assign(self, fusion: Component, modalities: tuple[str, ...]) -> tuple[Component, tuple[Trial, ...]]:
        """The routing, and those teachers that some route of the student really uses."""
        request, registry = self._request, self._registry
        routing = _component(registry, "routing", request.routing, request)
        declared = registry.declaration(registry.resolve("routing", routing.name).component)
        emits = registry.declaration(registry.resolve("fusion", fusion.name).component).emits
        offered = [(m, s) for m in self._modalities for s in request.teacher.seeds]
        lessons = pair(
            route_names(emits, modalities),
            [frozenset({m}) for m, _ in offered],
            declared.pairing,
            str(routing.params.get("fallback", "")),
        )
        used = sorted({i for lesson in lessons for i in lesson.teachers})
        return routing, tuple(self._trial(*offered[i]) for i in used)

    def _trial(self, modality: str, seed: int) -> Trial:
        request, registry = self._request, self._registry
        single = registry.resolve("fusion", "single").component
        recipe: Recipe = validate(
            Recipe, {**request.training.model_dump(), **request.teacher.training}, "teacher.training"
        )
        budget = self._base.budget
        if request.teacher.epochs is not None:
            budget = budget.model_copy(update={"epochs": request.teacher.epochs})
        return Trial(
            protocol=self._base.model_copy(update={"modalities": (modality,), "budget": budget}),
            method=Method(
                fusion=Component(name=qualified_name(single)),
                backbone=_component(registry, "backbone", request.teacher.backbone, Request()),
                # A teacher learns from labels alone, whatever share of them its student gets.
                recipe=recipe.model_copy(update={"task_weight": 1.0}),
            ),
            seed=seed,
        )
