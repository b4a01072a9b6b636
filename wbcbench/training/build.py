"""From a trial's names and numbers to modules."""

from __future__ import annotations

from typing import Any

import torch

from wbcbench.contracts import Backbone, Distiller, Fusion, Policy, Routing, Task
from wbcbench.data.counter import derive_seed
from wbcbench.data.resident import ResidentCells
from wbcbench.registry import Registry
from wbcbench.spec import Component, Trial
from wbcbench.spec.imputers import IMPUTE, MEAN
from wbcbench.training.imputer import impute


def component_class(registry: Registry, kind: str, spec: Component) -> Any:
    """The class that a trial's component names."""
    return registry.load(registry.resolve(kind, spec.name).component)


def make(registry: Registry, kind: str, spec: Component) -> Any:
    """An instance of a policy, distiller or routing with its validated parameters."""
    cls = component_class(registry, kind, spec)
    return cls(cls.Params(**spec.params))


def task_of(trial: Trial, cells: ResidentCells) -> Task:
    """The task as the trial's own modalities see it."""
    return Task(cells.channels(trial.reads), cells.classes, cells.image_size)


def build_fusion(trial: Trial, task: Task, registry: Registry) -> Fusion:
    """A freshly initialised fusion; the same weights for the same trial seed."""
    backbone_cls = component_class(registry, "backbone", trial.method.backbone)
    backbone_params = backbone_cls.Params(**trial.method.backbone.params)
    fusion_cls = component_class(registry, "fusion", trial.method.fusion)

    def backbone(in_chans: int, *, width: float = 1.0) -> Backbone:
        net: Backbone = backbone_cls(in_chans, task.image_size, backbone_params, width)
        return net

    # Some fusions find by a backward pass which modules they use, whatever the caller's mode is.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive_seed(trial.seed, "init"))
        params = dict(trial.method.fusion.params)
        imputer = MEAN if IMPUTE in fusion_cls.Params.model_fields else params.pop(IMPUTE, MEAN)
        fusion: Fusion = impute(fusion_cls(task, backbone, fusion_cls.Params(**params)), imputer)
    fusion.label_smoothing = trial.method.recipe.label_smoothing
    return fusion


def build_policies(trial: Trial, fusion: Fusion, registry: Registry) -> list[Policy]:
    """The trial's policies, set up around the fusion, in the trial's order."""
    policies: list[Policy] = [make(registry, "policy", p) for p in trial.method.policies]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(trial.seed, "init", "policies"))
        for policy in policies:
            policy.setup(fusion)
    return policies


def build_distillers(trial: Trial, registry: Registry) -> list[Distiller]:
    """One fresh distiller per configured one; a supervision copies them per route."""
    return [make(registry, "distiller", d) for d in trial.method.distillers]


def build_routing(trial: Trial, registry: Registry) -> Routing:
    """The trial's routing."""
    if trial.method.routing is None:
        raise RuntimeError("A trial with distillers always has a routing; the planner writes it.")
    routing: Routing = make(registry, "routing", trial.method.routing)
    return routing
