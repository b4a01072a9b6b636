"""The teachers that a request offers, and which of them a student really uses."""

from __future__ import annotations

from dataclasses import dataclass

from wbcbench.errors import IncompatibleError
from wbcbench.registry import Registry
from wbcbench.scheduling.components import component
from wbcbench.scheduling.fit import needs_of
from wbcbench.spec import Component, Method, Protocol, Recipe, Trial
from wbcbench.spec.lessons import pair, route_names
from wbcbench.spec.load import validate
from wbcbench.spec.request import Request


@dataclass(frozen=True)
class Offer:
    """One teacher, or the head of a chain of teachers."""

    fusion: Component
    reads: tuple[str, ...]
    backbones: tuple[Component, ...]
    """One; or a chain, each taught by the next."""
    seed: int


class TeacherPool:
    """Teachers are trials of their own: per modality (or of all, where a fusion is asked for), size and seed."""

    def __init__(self, request: Request, registry: Registry, base: Protocol, modalities: tuple[str, ...]) -> None:
        self._request = request
        self._registry = registry
        self._base = base
        self._modalities = modalities
        # A teacher's own components are not touched by `--set fusion.*` and the like, which are the student's.
        self._backbones = tuple(component(registry, "backbone", b, Request()) for b in request.teacher.backbone)
        self._fusions = tuple(component(registry, "fusion", f, Request()) for f in request.teacher.fusion)

    def assign(
        self, fusion: Component, modalities: tuple[str, ...], distillers: tuple[Component, ...]
    ) -> tuple[Component, tuple[Trial, ...]]:
        """The routing, and those teachers that some route of the student really uses."""
        request, registry = self._request, self._registry
        routing = component(registry, "routing", request.routing, request)
        declared = registry.declared("routing", routing.name)
        emits = registry.declared("fusion", fusion.name).emits
        offers = self._offers(declared.chain)
        lessons = pair(
            route_names(emits, modalities),
            [frozenset(o.reads) for o in offers],
            declared.pairing,
            str(routing.params.get("fallback", "")),
        )
        alone = [d.name for d in distillers if needs_of(registry, d).head]
        crowded = [lesson for lesson in lessons if len(lesson.teachers) > 1]
        if alone and crowded:
            raise IncompatibleError(
                f"Distiller '{alone[0]}' takes over one teacher's classifier, but route '{crowded[0].route}' of "
                f"fusion '{fusion.name}' has {len(crowded[0].teachers)} teachers. Choose a fusion with a head per "
                "modality, such as independent, or one teacher for all: --set teacher.fusion=early"
            )
        used = sorted({i for lesson in lessons for i in lesson.teachers})
        return routing, tuple(self._trial(offers[i], routing, distillers) for i in used)

    def _offers(self, chain: bool) -> list[Offer]:
        sizes = [self._backbones] if chain else [(b,) for b in self._backbones]
        if chain and len(self._backbones) < 2:
            raise IncompatibleError(
                "A chain needs at least two teachers: the assistant first, as in "
                "--teacher cellnet:width=20,cellnet:width=32"
            )
        offers, seeds = [], self._request.teacher.seeds
        for fusion in self._fusions:
            high = self._registry.declared("fusion", fusion.name).arity[1]
            groups = [(m,) for m in self._modalities] if high == 1 else [self._modalities]
            offers += [Offer(fusion, g, s, seed) for g in groups for s in sizes for seed in seeds]
        return offers

    def _trial(self, offer: Offer, routing: Component, distillers: tuple[Component, ...]) -> Trial:
        request = self._request
        recipe: Recipe = validate(
            Recipe, {**request.training.model_dump(), **request.teacher.training}, "teacher.training"
        )
        budget = self._base.budget
        if request.teacher.epochs is not None:
            budget = budget.model_copy(update={"epochs": request.teacher.epochs})
        protocol = self._base.model_copy(update={"modalities": offer.reads, "budget": budget})
        trial: Trial | None = None
        for backbone in reversed(offer.backbones):
            taught = {"distillers": distillers, "routing": routing, "teachers": (trial,)} if trial else {}
            # A teacher without teachers learns from labels alone, whatever share of them its student gets.
            own = recipe if trial else recipe.model_copy(update={"task_weight": 1.0})
            method = Method(fusion=offer.fusion, backbone=backbone, recipe=own).model_copy(update=taught)
            trial = Trial(protocol=protocol, method=method, seed=offer.seed)
        assert trial is not None
        return trial
