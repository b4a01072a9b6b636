"""Turns a request into trials in dependency order: every teacher once, before the trials that need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from wbcbench.contracts import Dataset, Description
from wbcbench.contracts.dataset import account_lines
from wbcbench.data.auto import Chosen, chosen_note, completed
from wbcbench.data.splits import check_group_count, fold_numbers, resolved, training_cells
from wbcbench.errors import IncompatibleError, UsageError, did_you_mean
from wbcbench.isolation import contained
from wbcbench.registry import Registry, qualified_name
from wbcbench.scheduling.compatibility import (
    asks_live,
    check_arity,
    check_complete,
    check_fit,
    check_live,
    check_policies,
    check_routing_reads,
    check_weights,
    declared,
    in_order,
    needs_of,
    together,
)
from wbcbench.scheduling.components import (
    TeacherPool,
    backbone_for,
    backbone_specs,
    component,
    distillers_of,
    with_carried,
)
from wbcbench.scheduling.settings import Settings, check_augmentation, check_views, settled_split
from wbcbench.scheduling.sizing import Sizer
from wbcbench.spec import ComponentSpec, Method, Protocol, SplitSpec, Trial
from wbcbench.spec.load import validate
from wbcbench.spec.request import BackboneChoice, Choice, Exclude, Request
from wbcbench.spec.trial import BackboneSpec, Outside, each_of

FOR_VECTORS = Choice(name="late_prob")
"""The fusion where none was asked for and some modality is numbers."""


class Excluder:
    """Decides which cells are left out, and records which rules applied.

    A rule applies where everything that it names matches: `{fusion: early, kd: dkd}` is every cell of `early`
    with only `dkd`, for any backbone and seed. A list means any of its items. Parameters given with a name
    must be equal; others do not matter. A distiller's name means that distiller alone, not a combination that
    contains it: write `kd: lskd+dkd` for that.
    """

    def __init__(self, rules: Sequence[Exclude], registry: Registry) -> None:
        self._rules, self._registry = rules, registry
        self._applied: set[int] = set()
        self._seen: dict[str, set[str]] = {"fusion": set(), "backbone": set(), "kd": set(), "seeds": set()}

    def drops(
        self, fusion: ComponentSpec, backbone: BackboneSpec, kd: tuple[ComponentSpec, ...], seed: int
    ) -> bool:
        """Whether a rule leaves this cell out."""
        self._seen["fusion"].add(fusion.name)
        self._seen["backbone"] |= {b.name for b in each_of(backbone)}
        self._seen["kd"].add("+".join(d.name for d in kd))
        self._seen["seeds"].add(str(seed))
        applying = {
            i
            for i, rule in enumerate(self._rules)
            if (not rule.fusion or any(self._is("fusion", c, fusion) for c in rule.fusion))
            and (not rule.backbone or any(self._is_backbone(c, backbone) for c in rule.backbone))
            and (not rule.kd or any(self._same(c, kd) for c in rule.kd))
            and (not rule.seeds or seed in rule.seeds)
        }
        self._applied |= applying
        return bool(applying)

    def check(self) -> None:
        """Raises `UsageError` for a rule that left nothing out, which is probably a typo."""
        for i, rule in enumerate(self._rules):
            if i in self._applied:
                continue
            for key, names in rule.names().items():
                for name in names:
                    known = sorted(self._seen[key])
                    if name.partition(":")[0] not in known:
                        raise UsageError(
                            f"exclude {i + 1}: expected a {key} of this study, but got '{name}'."
                            f"{did_you_mean(name, known)} It has: {', '.join(known)}."
                        )
            raise UsageError(
                f"exclude {i + 1}: expected to leave something out, but no cell of this study matches "
                f"{rule.names()}. Correct the rule or remove it."
            )

    def _is(self, kind: str, choice: Choice, component: ComponentSpec) -> bool:
        resolved = self._registry.resolve(kind, choice.name)
        wanted = {**resolved.params, **choice.params}
        return qualified_name(resolved.component) == component.name and all(
            k in component.params and component.params[k] == v for k, v in wanted.items()
        )

    def _is_backbone(self, choice: BackboneChoice, backbone: BackboneSpec) -> bool:
        if isinstance(choice, Choice) or isinstance(backbone, ComponentSpec):
            return all(self._is("backbone", c, b) for c in each_of(choice) for b in each_of(backbone))
        return all(m in backbone and self._is("backbone", c, backbone[m]) for m, c in choice.items())

    def _same(self, choices: tuple[Choice, ...], kd: tuple[ComponentSpec, ...]) -> bool:
        left = list(kd)
        for choice in choices:
            found = next((d for d in left if self._is("distiller", choice, d)), None)
            if found is None:
                return False
            left.remove(found)
        return not left


@dataclass(frozen=True)
class PlannedTrial:
    """A trial, why it is run, and the trials that must be done first."""

    trial: Trial
    role: Literal["student", "teacher"]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(t.id for t in self.trial.method.teachers)


@dataclass
class Plan:
    """The trials of a request, with notes."""

    trials: list[PlannedTrial]
    dataset: Dataset
    description: Description
    notes: list[str] = field(default_factory=list)
    """Notes for readers of the results."""
    chosen: tuple[Chosen, ...] = ()
    """Settings that the request left open."""
    answers: dict[str, Path] = field(default_factory=dict)
    """SHA-256 -> a file of answers that teach some of the trials."""


def make_plan(request: Request, registry: Registry, *, refuse_unused: bool = True) -> Plan:
    """Resolve names, fill in defaults, check compatibility, and order by dependency.

    Args:
        request: what to run.
        registry: of components.
        refuse_unused: refuse settings that have no effect in any trial; otherwise they are only reset.

    Raises:
        UsageError: unknown names or parameters, a setting without an effect, or incompatible components.
        PluginError: a component's plugin failed.
        DataError: the cells cannot be read, or belong to too few groups to be divided.
    """
    request = with_carried(request, registry)
    with contained():
        dataset_spec, dataset = open_dataset(request, registry)
        description = dataset.describe()
    notes = [f"Data: {line}." for line in account_lines(description.accounting())]
    notes += [f"Data: {line}" for line in description.notes]
    split, note = settled_split(request.split, description)
    notes += [note] if note else []
    split = resolved(split, description.groups, description.split_sizes, description.fold_sizes)
    if split.unit == "group" and split.scheme != "official_folds" and description.group_count is not None:
        check_group_count(description.group_count)
    folds = _folds(request, split, description)
    request, chosen = completed(request, description, dataset)
    if description.pseudo_multimodal:
        notes.append("Pseudo-multimodal: the modalities were computed from one image; no new light was measured.")
    modalities = _pick(request.modalities, description, "modalities") or tuple(description.modalities)
    teacher_modalities = _pick(request.teacher_modalities, description, "teacher_modalities") or modalities
    size = request.image_size or description.image_size
    if description.vectors == set(description.modalities):
        if request.image_size is not None:
            raise UsageError(f"image_size = {request.image_size} has no effect: the data set has no images.")
        size = 0
    if size is None:
        raise UsageError("The images have different sizes. Choose one side for all: --image-size 64")

    read = tuple(dict.fromkeys((*modalities, *teacher_modalities)))
    longest = max(request.budget.epochs, request.teacher.epochs or 0)
    check_augmentation(request.augmentation, size, read, description.vectors, longest)
    check_views(request)
    if description.vectors & set(modalities) and "fusion" not in request.model_fields_set:
        request = request.model_copy(update={"fusion": (FOR_VECTORS,)})
        chosen = (*chosen, Chosen("fusion", FOR_VECTORS.name, "it reads numbers too, which the default does not"))
    notes += chosen_note(chosen)
    base = Protocol(
        dataset=dataset_spec,
        modalities=modalities,
        image_size=size,
        fingerprint=description.fingerprint,
        split=split,
        budget=request.budget,
        augmentation=request.augmentation,
        selection=request.selection,
    )
    fusions = [component(registry, "fusion", c, request, request.fusion) for c in request.fusion]
    backbones, more = backbone_specs(
        registry, request.backbone, request, modalities, description.vectors, "backbone"
    )
    notes += more
    given = [component(registry, "policy", c, request, request.policy) for c in request.policy]
    policies = in_order(registry, given)
    if list(policies) != given:
        notes.append(f"Policies act in a fixed order: {', '.join(p.name for p in policies)}.")
    everything = [c for combination in request.kd for c in combination]
    recipes = [distillers_of(registry, combination, request) for combination in request.kd]
    notes += [together(registry, kd) for kd in recipes if len(kd) > 1]
    for kind, choices in (
        ("dataset", [request.dataset]),
        ("fusion", request.fusion),
        ("backbone", [c for b in request.backbone for c in each_of(b)]),
        ("policy", request.policy),
        ("distiller", everything),
        ("routing", [request.routing]),
    ):
        for name in dict.fromkeys(c.name for c in choices):
            found = registry.resolve(kind, name).component
            if name in found.aliases:
                notes.append(f"'{name}' means the {kind} '{found.name}'.")
    settings = Settings(request, registry)
    teacher_pool = TeacherPool(
        request, registry, base, teacher_modalities, settings, description.classes, description.vectors
    )
    notes += [file.sentence() for file in teacher_pool.files.values()]
    if any(d.name != "none" for kd in recipes for d in kd):
        notes += teacher_pool.notes

    sizer = Sizer(request, registry, description)

    students: dict[str, Trial] = {}
    skipped: dict[str, str] = {}
    excluder = Excluder(request.exclude, registry)
    for fusion, chosen_backbone, kd, seed, fold in product(fusions, backbones, recipes, request.seeds, folds):
        if excluder.drops(fusion, chosen_backbone, kd, seed):
            continue
        distillers = tuple(d for d in kd if d.name != "none")
        for d in kd:
            if d.name == "none":
                settings.component("distiller", d, adds_loss=False)
        try:
            for protocol in _protocols(registry, fusion, base):
                backbone = backbone_for(chosen_backbone, protocol.modalities)
                check_fit(registry, fusion, backbone, distillers, description, protocol, request.training)
                check_weights(registry, fusion, backbone)
                check_policies(registry, fusion, policies, distillers, protocol, description)
                routing: ComponentSpec | None = None
                teachers: tuple[Trial, ...] = ()
                outside: tuple[Outside, ...] = ()
                if any(needs_of(registry, d).taught_by == "teacher" for d in distillers):
                    assigned = teacher_pool.assign(fusion, protocol.modalities, distillers, seed, fold)
                    routing, teachers, outside = assigned
                count = len(protocol.modalities)
                for read, by in ((protocol.modalities, fusion), *((t.reads, t.method.fusion) for t in teachers)):
                    check_complete(registry, by, read, description)
                own = settings.component("fusion", fusion, modalities=count)
                acting = tuple(settings.component("policy", p, modalities=count) for p in policies)
                method = Method(
                    fusion=own,
                    backbone=sizer.fit(own, settings.backbone(backbone, fusion), acting, distillers, protocol),
                    recipe=settings.recipe(request.training, fusion, distillers, policies),
                    policies=acting,
                    distillers=settings.distillers(distillers, count),
                    routing=routing,
                    teachers=teachers,
                    outside=outside,
                    teacher_seeds=teacher_pool.vary if teachers else "fixed",
                    teacher_views=request.teacher.views if teachers else "same",
                )
                trial = Trial(protocol=protocol, method=method, seed=seed, fold=fold)
                check_live(registry, trial)
                check_routing_reads(registry, trial)
                students.setdefault(trial.id, trial)
        except IncompatibleError as error:
            if request.incompatible == "refuse":
                raise
            skipped.setdefault(f"{fusion.name} with {'+'.join(d.name for d in kd)}", str(error))
    notes += sizer.notes
    notes += [f"Left out: {what}. {why}" for what, why in skipped.items()]
    excluder.check()
    if refuse_unused:
        settings.check()
        teacher_pool.check_used()
    if not students and skipped:
        raise IncompatibleError("Expected trials to run, but no combination is compatible. " + " ".join(notes))
    if not students:
        raise UsageError("Expected trials to run, but `exclude` leaves none. Remove a rule.")
    ordered: dict[str, PlannedTrial] = {}
    for trial in students.values():
        _add_teachers(trial, ordered)
    for trial in students.values():
        ordered[trial.id] = PlannedTrial(trial, "student")
    notes += _frozen_notes(registry, (p.trial for p in ordered.values()), description)
    notes += _live_notes(registry, students.values(), description)
    parts = [("Policy", p, declared(registry, "policy", p)) for p in policies]
    routings = {t.method.routing.name: t.method.routing for t in students.values() if t.method.routing}
    parts += [("Routing", r, declared(registry, "routing", r)) for r in routings.values()]
    notes += [
        f"{kind} '{spec.name}' learns from the validation cells, by which the epoch is selected too."
        for kind, spec, d in parts
        if "ReadsValidation" in d.extras
    ]
    notes += [
        f"Policy '{p.name}' takes several optimiser steps for each batch, each after a forward pass of its own."
        for p in policies
        if "StepsInTurn" in declared(registry, "policy", p).extras
    ]
    # A requested trial that is also a teacher keeps its position among the teachers.
    answers = {digest: file.path for digest, file in teacher_pool.files.items()}
    return Plan(list(ordered.values()), dataset, description, notes, chosen, answers)


FEW_VIEWS = 16
"""Views of each cell that are proposed where a student would be shown many more of them."""


def _frozen_notes(registry: Registry, trials: Iterable[Trial], description: Description) -> list[str]:
    """What frozen networks cost: how many images each embeds for its own training, and for a seed it teaches."""
    notes, d = [], description
    for trial in trials:
        protocol = trial.protocol
        cells = training_cells(protocol.split, d.cells, d.split_sizes, d.group_count, d.fold_sizes, trial.fold)
        shown = min(protocol.augmentation.views or protocol.budget.epochs, protocol.budget.epochs)
        side, name = protocol.image_size, trial.method.backbone_name
        if limit := _frozen_views(registry, trial):
            views = min(limit, shown)
            notes.append(
                f"{name} is frozen: with a network per modality, each embeds {views} view{'s' * (views > 1)} of "
                f"about {cells} training cells at {side} px once ({views * cells} images), and only heads are "
                "trained on them."
            )
        for teacher in (t for t in trial.method.teachers if _frozen_views(registry, t)):
            fewer = (
                f" --set augmentation.views={FEW_VIEWS} shows each cell in {FEW_VIEWS} views, in turn."
                if shown > 2 * FEW_VIEWS and protocol.augmentation.random
                else ""
            )
            notes.append(
                f"As a teacher, frozen {teacher.method.backbone_name} embeds {shown} view{'s' * (shown > 1)} of "
                f"about {cells} training cells at {teacher.protocol.image_size} px for each seed of its students "
                f"({shown * cells} images); its other heads read them back.{fewer}"
            )
    return list(dict.fromkeys(notes))


def _live_notes(registry: Registry, trials: Iterable[Trial], description: Description) -> list[str]:
    """What teachers cost that answer for the images of each step: how many images each reads."""
    notes, d = [], description
    for trial in trials:
        protocol, method = trial.protocol, trial.method
        who = asks_live(registry, method)
        if not who or not method.teachers:
            continue
        cells = training_cells(protocol.split, d.cells, d.split_sizes, d.group_count, d.fold_sizes, trial.fold)
        count = protocol.budget.epochs * cells
        notes.append(
            f"{who} lets teachers answer for the images of each step: in every training of {trial.title}, each of "
            f"{len(method.teachers)} reads {count} images or more, and none of their answers is stored."
            + _twice(registry, method)
        )
    return list(dict.fromkeys(notes))


def _twice(registry: Registry, method: Method) -> str:
    """What it costs that a distiller reads gradients in images, as a sentence after another; empty if none
    does."""
    reading = [d.name for d in method.distillers if needs_of(registry, d).inputs]
    return f" {reading[0]} adds a second backward pass to each step." if reading else ""


def _frozen_views(registry: Registry, trial: Trial) -> int:
    """How many views a trial trains on whose networks are all frozen; 0: some are trained."""
    specs = trial.method.backbones.values()
    built: list[Any] = [registry.declared("backbone", b.name).params(**b.params) for b in specs]
    if any(getattr(params, "freeze", "none") != "all" for params in built):
        return 0
    once = registry.declared("fusion", trial.method.fusion.name).solved_once
    return 1 if once else max(params.views for params in built)


def _add_teachers(trial: Trial, ordered: dict[str, PlannedTrial]) -> None:
    for teacher in trial.method.teachers:
        _add_teachers(teacher, ordered)
        ordered.setdefault(teacher.id, PlannedTrial(teacher, "teacher"))


def open_dataset(request: Request, registry: Registry) -> tuple[ComponentSpec, Dataset]:
    """The request's data set, and its component in a trial's identity. Reads no data."""
    resolved = registry.resolve("dataset", request.dataset.name)
    cls: Any = registry.load(resolved.component)
    given = {**resolved.params, **request.dataset.params, **request.overrides.get("dataset", {})}
    params = validate(cls.Params, given, f"dataset {request.dataset.name}")
    dataset: Dataset = cls(params)
    return ComponentSpec(name=qualified_name(resolved.component), params=dataset.public_params()), dataset


def _folds(request: Request, split: SplitSpec, description: Description) -> tuple[int | None, ...]:
    """The requested folds, by default all; (None,) if the split is one division."""
    every = fold_numbers(split, description.group_count, description.fold_sizes)
    if every is None:
        if request.folds is not None:
            raise UsageError(
                f"Expected a split with folds for --folds, but split.scheme is {split.scheme}. Set split.scheme "
                "to kfold, leave_one_group_out or repeated."
            )
        return (None,)
    if beyond := [f for f in request.folds or () if f not in every]:
        there = f"0 to {len(every) - 1}" if every == tuple(range(len(every))) else ", ".join(map(str, every))
        raise UsageError(f"Expected --folds of {there}, but got {', '.join(map(str, beyond))}.")
    return tuple(dict.fromkeys(request.folds)) if request.folds else every


def _pick(wanted: tuple[str, ...] | None, description: Description, what: str) -> tuple[str, ...]:
    known = tuple(description.modalities)
    for name in wanted or ():
        if name not in known:
            raise UsageError(
                f"{what}: the data set has no modality '{name}'.{did_you_mean(name, known)} "
                f"It has: {', '.join(known)}."
            )
    # canonical order, so that the order in which a user lists them does not affect the identity
    return tuple(m for m in known if m in (wanted or ()))


def _protocols(registry: Registry, fusion: ComponentSpec, base: Protocol) -> list[Protocol]:
    """The protocol, or one per modality for a fusion of exactly one; refuses an arity that cannot fit."""
    if declared(registry, "fusion", fusion).fusion_traits.arity[1] == 1 and len(base.modalities) > 1:
        return [base.model_copy(update={"modalities": (m,)}) for m in base.modalities]
    check_arity(registry, fusion, base.modalities)
    return [base]
