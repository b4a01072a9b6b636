"""Builds the modules of a trial, with their imputers and replaced classifiers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wbcbench.contracts import (
    Backbone,
    Batch,
    Combiner,
    Distiller,
    Draw,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    PairShapes,
    PerModality,
    Policy,
    Progress,
    Renormalise,
    ReplacesHead,
    Routing,
    Task,
    over_rows,
)
from wbcbench.data.counter import derive_seed
from wbcbench.data.views import ResidentCells
from wbcbench.errors import IncompatibleError
from wbcbench.records.store import Record
from wbcbench.registry import Registry
from wbcbench.spec import ComponentSpec, Trial
from wbcbench.spec.trial import IMPUTE, MEAN
from wbcbench.spec.weights import BALANCED
from wbcbench.training.features import check_features

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Imputer(nn.Module):
    """Fills in absent images before the fusion that owns this module sees them.

    `zero` uses black pixels (a vector: zeros); `token` an image or vector per modality that is learned with the
    network, from the training cells that lack the modality (in the data set, or because of the policy
    `modality_dropout`). A token starts at the training mean; together the tokens add sum_m C_m S^2 parameters.
    """

    def __init__(self, task: Task, how: str) -> None:
        """`how`: `zero` or `token`."""
        super().__init__()
        self.modalities = task.modalities
        for m in task.modalities:
            shape = task.shape(m)
            if how == "token":
                self.register_parameter(f"token_{m}", nn.Parameter(torch.zeros(shape)))
            else:
                self.register_buffer(f"black_{m}", torch.zeros(shape[0], *[1] * (len(shape) - 1)))
        self.prefix = "token" if how == "token" else "black"

    def measure(self, cells: ResidentCells) -> None:
        """Compute the value of a black pixel after normalisation: -mean / sd of each channel."""
        if self.prefix == "black":
            for m in self.modalities:
                modality = cells.modalities[m]
                self.fill(m).copy_((-modality.mean / modality.std).view_as(self.fill(m)))

    def fill(self, modality: str) -> Tensor:
        """[C, S, S] or [C, 1, 1]: the replacement for an absent image; [F]: of a vector."""
        found: Tensor = getattr(self, f"{self.prefix}_{modality}")
        return found

    def forward(self, images: dict[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
        """The images [B, C, S, S] with the absent ones replaced; `present` [B, M] bool or None."""
        if present is None:
            return images
        here = {m: present[:, i] for i, m in enumerate(self.modalities)}
        return {m: torch.where(over_rows(here[m], x), x, self.fill(m)) for m, x in images.items()}


def impute(fusion: Fusion, how: str) -> Fusion:
    """Give the fusion an imputer (`fusion.imputer`) that acts before its forward pass; `mean` needs none."""
    if how == MEAN:
        return fusion
    fusion.imputer = Imputer(fusion.task, how)
    fusion.register_forward_pre_hook(_fill_in, with_kwargs=True)
    return fusion


def _fill_in(fusion: Fusion, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    # Accessed through the module, so that a copied fusion uses the copy's own imputer.
    images, *rest = args if args else (kwargs.pop("images"),)
    present = rest[0] if rest else kwargs.get("present")
    imputer = fusion.imputer
    assert isinstance(imputer, Imputer)
    return (imputer(images, present), *rest), kwargs


class ReplacedHeads(OwnHeads, Fusion):
    """A fusion whose routes predict with a distiller's projector and the teacher's frozen classifier.

    During training these logits carry no gradient: the student learns from the distiller's own loss only, as
    in the method's paper. The student's own classifier stays, unused, and its D x K parameters are counted.
    """

    def __init__(self, inner: Fusion, projectors: Mapping[str, Distiller], heads: Mapping[str, nn.Module]) -> None:
        """`projectors` and `heads`: route -> distiller with `replaced_head`, and the teacher's classifier."""
        super().__init__(inner.task, _no_backbone, inner.params)
        self.inner = inner
        self.projectors = PerModality(projectors)
        self.heads = PerModality({r: copy.deepcopy(h).requires_grad_(False) for r, h in heads.items()})
        self.label_smoothing = inner.label_smoothing

    @property
    def routes(self) -> tuple[str, ...]:
        return self.inner.routes

    @property
    def traits(self) -> FusionTraits:  # type: ignore[override]
        return self.inner.traits

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        return self.inner.assemble(batch, draw)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.inner(images, present, maps)
        for route, projector in self.projectors.items():
            assert isinstance(projector, ReplacesHead)
            if route not in outputs:
                continue
            out = outputs[route]
            logits = projector.replaced_head(out, self.heads[route])
            outputs[route] = replace(out, logits=logits.detach() if self.training else logits)
        return outputs

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return self.inner.task_terms(outputs, batch, progress)

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return self.inner.predict(outputs, present)

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return self.inner.head_params() if isinstance(self.inner, OwnHeads) else {}


def combiner_of(fusion: Fusion) -> Combiner | None:
    """The part that is fitted on validation cells, if any."""
    inner = fusion.inner if isinstance(fusion, ReplacedHeads) else fusion
    return inner if isinstance(inner, Combiner) else None


def replaces(distillers: list[Distiller]) -> int | None:
    """Position of the distiller that replaces heads, if there is one."""
    found = [j for j, d in enumerate(distillers) if isinstance(d, ReplacesHead)]
    return found[0] if found else None


def teacher_classifier(answer: Output) -> nn.Module:
    """A teacher's classifier as a module. Raises `IncompatibleError` if the teacher has no single one."""
    if not isinstance(answer.head, nn.Module):
        raise IncompatibleError(
            "A distiller replaces the student's classifier with the teacher's, but this teacher has no "
            "single classifier. Choose teachers with one backbone each (teacher.fusion=single)."
        )
    return answer.head


def rebuild(inner: Fusion, distiller: Distiller, weights: Mapping[str, Tensor], probe: Outputs) -> ReplacedHeads:
    """The network of a stored record: shapes come from its weights, `probe` is any output of `inner`.

    `distiller` is a new instance; it is copied per route.
    """
    projectors, heads = {}, {}
    for route in inner.routes:
        weight = weights[f"heads.{route}.weight"]
        student = probe[route].embedding
        assert student is not None
        projectors[route] = copy.deepcopy(distiller)
        projectors[route].setup(
            PairShapes(
                n_classes=len(weight),
                n_cells=1,
                max_index=0,
                student_embedding=student.shape[1],
                teacher_embedding=weight.shape[1],
                student_maps=tuple((m.shape[1], m.shape[2], m.shape[3]) for m in probe[route].maps),
            )
        )
        heads[route] = nn.Linear(weight.shape[1], weight.shape[0], bias=f"heads.{route}.bias" in weights)
    return ReplacedHeads(inner, projectors, heads)


def _no_backbone(in_chans: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
    raise RuntimeError("A fusion with replaced heads builds no backbone of its own.")


def component_class(registry: Registry, kind: str, spec: ComponentSpec) -> Any:
    """The class of a trial's component."""
    return registry.load(registry.resolve(kind, spec.name).component)


def make(registry: Registry, kind: str, spec: ComponentSpec) -> Any:
    """An instance of a policy, distiller or routing with its validated parameters.

    A distiller whose weight the training sets gets its default weight.
    """
    cls = component_class(registry, kind, spec)
    given = {k: v for k, v in spec.params.items() if (k, v) != ("weight", BALANCED)}
    return cls(cls.Params(**given))


def task_of(trial: Trial, cells: ResidentCells) -> Task:
    """The task as the trial's own modalities see it."""
    return cells.task(trial.reads)


def _backbone(registry: Registry, spec: ComponentSpec) -> tuple[Any, Any]:
    """The class of a backbone, and its parameters."""
    cls = component_class(registry, "backbone", spec)
    return cls, cls.Params(**spec.params)


def build_fusion(trial: Trial, task: Task, registry: Registry) -> Fusion:
    """A newly initialised fusion; the same trial seed gives the same weights."""
    backbones = {m: _backbone(registry, spec) for m, spec in trial.method.backbones.items()}
    fusion_cls = component_class(registry, "fusion", trial.method.fusion)

    def backbone(in_chans: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        built = backbones.get("") or backbones.get(modality or "")
        if built is None:
            raise IncompatibleError(
                f"Fusion '{fusion_cls.name}' declares `own_backbones`, but builds one for "
                f"{modality or 'no modality'} where the modalities are {', '.join(backbones)}. Build each with "
                "backbone(channels, modality=name)."
            )
        cls, params = built
        net: Backbone = cls(in_chans, 0 if cls.reads == "vectors" else task.image_size, params, width)
        return net

    # Some fusions run a backward pass to find which modules they use, so gradients must be enabled.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive_seed(trial.seed, "init"))
        params = dict(trial.method.fusion.params)
        imputer = MEAN if IMPUTE in fusion_cls.Params.model_fields else params.pop(IMPUTE, MEAN)
        fusion: Fusion = impute(fusion_cls(task, backbone, fusion_cls.Params(**params)), imputer)
    fusion.label_smoothing = trial.method.recipe.label_smoothing
    return fusion


@torch.no_grad()
def channels_read(fusion: Fusion) -> list[tuple[Renormalise, list[tuple[str, int]]]]:
    """Of every network that normalises its input itself, the modality and channel of each input channel.

    Every channel of every modality is given a number as its only value, and what arrives is looked up.

    Raises:
        IncompatibleError: a network gets something else than channels, or reads one modality after another.
    """
    asking = [m for m in fusion.modules() if isinstance(m, Renormalise)]
    if not asking:
        return []
    side = fusion.task.image_size
    known: dict[float, tuple[str, int]] = {}
    images = {}
    for m, count in fusion.task.channels.items():
        numbers = torch.arange(len(known) + 1.0, len(known) + count + 1.0)
        known |= {number: (m, c) for c, number in enumerate(numbers.tolist())}
        images[m] = numbers[None, :, None, None].repeat(2, 1, side, side)
    arrived: dict[Renormalise, set[tuple[float, ...]]] = {m: set() for m in asking}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, Renormalise)
        corners = args[0][:, :, 0, 0], args[0][:, :, -1, -1]
        arrived[module] |= {tuple(row) for x in corners for row in x.tolist()}

    hooks = [m.register_forward_pre_hook(look) for m in asking]
    was_training = fusion.training
    try:
        fusion.eval()(images)
    except RuntimeError:  # of a network whose first layer the fusion has replaced
        arrived = {m: set() for m in asking}
    fusion.train(was_training)
    for hook in hooks:
        hook.remove()
    found = []
    for module, rows in arrived.items():
        if len(rows) != 1 or not set(*rows) <= known.keys():
            raise IncompatibleError(
                "normalise=pretrained needs a network that reads channels of the images themselves, always the "
                "same ones, but this fusion shows it others. Leave it out, or choose a fusion such as single, "
                "early or concat."
            )
        found.append((module, [known[number] for number in next(iter(rows))]))
    return found


def measure_inputs(fusion: Fusion, cells: ResidentCells) -> None:
    """Tell networks that normalise their input themselves how the core has normalised it.

    Raises:
        IncompatibleError: the images have 16 bits, and so no fixed white.
    """
    for module, channels in channels_read(fusion):
        wide = [m for m, _ in channels if cells.modalities[m].images.dtype != torch.uint8]
        if wide:
            raise IncompatibleError(
                f"normalise=pretrained needs images of 8 bits, as pretraining had, but '{wide[0]}' has 16, of "
                "which no value is white. Leave it out."
            )
        mean, sd = (
            torch.stack([getattr(cells.modalities[m], what)[c] for m, c in channels]).cpu() / 255
            for what in ("mean", "std")
        )
        module.measure(mean, sd)


def build_policies(trial: Trial, fusion: Fusion, registry: Registry) -> list[Policy]:
    """The trial's policies, set up around the fusion, in the trial's order."""
    policies: list[Policy] = [make(registry, "policy", p) for p in trial.method.policies]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(trial.seed, "init", "policies"))
        for policy in policies:
            policy.setup(fusion)
            if "features" in policy.traits.wants:
                check_features(fusion)
    return policies


def build_distillers(trial: Trial, registry: Registry) -> list[Distiller]:
    """One new instance per configured distiller; `Distillation` copies them per route."""
    return [make(registry, "distiller", d) for d in trial.method.distillers]


def build_routing(trial: Trial, registry: Registry) -> Routing:
    """The trial's routing."""
    if trial.method.routing is None:
        raise RuntimeError("A trial with distillers always has a routing; the planner adds it.")
    routing: Routing = make(registry, "routing", trial.method.routing)
    return routing


def stored_fusion(record: Record, task: Task, registry: Registry) -> Fusion:
    """The trained network of a record, on the CPU; needs no cells."""
    return fusion_of(record.trial, task, registry, record.weights())


def fusion_of(trial: Trial, task: Task, registry: Registry, weights: Mapping[str, Tensor]) -> Fusion:
    """A trial's network with these weights, on the CPU."""
    with torch.enable_grad():  # some fusions run a backward pass to find which layers they need
        fusion = build_fusion(trial, task, registry)
    distillers = build_distillers(trial, registry)
    replacing = replaces(distillers)
    if replacing is not None:
        with torch.no_grad():
            fusion = rebuild(fusion, distillers[replacing], weights, fusion.eval()(task.blank(1), None, True))
    fusion.load_state_dict(weights)
    return fusion
