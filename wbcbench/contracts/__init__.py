"""The contracts that plugins are written against: import everything from here.

Every name is loaded on first use, so that code that reads only declarations needs neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbcbench.contracts.backbone import Backbone, BackboneFactory, Renormalise, stage_shapes
    from wbcbench.contracts.corruption import CellDraws, Corruption
    from wbcbench.contracts.dataset import (
        Account,
        Cells,
        Dataset,
        Description,
        LeftOut,
        Preparation,
        content_digest,
        middle_square,
    )
    from wbcbench.contracts.distiller import Distiller, PairShapes, ReplacesHead, TakesStep, TransformsLogits
    from wbcbench.contracts.fusion import (
        JOINT,
        AddsLogits,
        Combiner,
        Deployed,
        DrawsSlots,
        Fusion,
        OwnHeads,
        PerModality,
        SolvedOnce,
        modality_logits,
        route_names,
        without,
    )
    from wbcbench.contracts.hooks import Register, hookimpl
    from wbcbench.contracts.metric import FromCounts, MeanOverCells, Metric, Ordered, OrderedParams
    from wbcbench.contracts.needs import FusionTraits, Needs, PolicyTraits
    from wbcbench.contracts.output import (
        Batch,
        Draw,
        Evaluated,
        Features,
        Output,
        Outputs,
        Progress,
        Task,
        input_gradient,
        masked_mean,
        over_rows,
    )
    from wbcbench.contracts.params import DistillerParams, Parameters, param
    from wbcbench.contracts.policy import (
        ChangesFeatures,
        ChangesGradients,
        DoesBackward,
        ForwardsAgain,
        PerCell,
        Policy,
        ReadsValidation,
        StepsInTurn,
    )
    from wbcbench.contracts.routing import Routing, each_teacher, mean_teacher, weighted

_LAZY = {
    "Backbone": "backbone", "BackboneFactory": "backbone", "Renormalise": "backbone", "stage_shapes": "backbone",
    "CellDraws": "corruption", "Corruption": "corruption",
    "Account": "dataset", "LeftOut": "dataset",
    "Cells": "dataset", "Dataset": "dataset", "Description": "dataset", "content_digest": "dataset",
    "Distiller": "distiller", "PairShapes": "distiller",
    "ReplacesHead": "distiller", "TakesStep": "distiller", "TransformsLogits": "distiller",
    "Deployed": "fusion", "PerModality": "fusion", "without": "fusion",
    "JOINT": "fusion", "Fusion": "fusion", "route_names": "fusion", "modality_logits": "fusion",
    "AddsLogits": "fusion", "Combiner": "fusion", "DrawsSlots": "fusion", "OwnHeads": "fusion",
    "SolvedOnce": "fusion",
    "Register": "hooks", "hookimpl": "hooks",
    "FromCounts": "metric", "MeanOverCells": "metric", "Metric": "metric", "Ordered": "metric",
    "OrderedParams": "metric",
    "FusionTraits": "needs", "Needs": "needs", "PolicyTraits": "needs",
    "Batch": "output", "Draw": "output", "Evaluated": "output", "Features": "output", "Output": "output",
    "Outputs": "output", "Progress": "output", "Task": "output", "masked_mean": "output", "over_rows": "output",
    "input_gradient": "output",
    "DistillerParams": "params", "Parameters": "params", "param": "params",
    "ChangesFeatures": "policy", "StepsInTurn": "policy",
    "ReadsValidation": "policy",
    "ChangesGradients": "policy", "DoesBackward": "policy", "ForwardsAgain": "policy", "PerCell": "policy",
    "Policy": "policy",
    "Preparation": "dataset", "middle_square": "dataset",
    "Routing": "routing", "mean_teacher": "routing", "each_teacher": "routing", "weighted": "routing",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "JOINT",
    "Account",
    "AddsLogits",
    "Backbone",
    "BackboneFactory",
    "Batch",
    "CellDraws",
    "Cells",
    "ChangesFeatures",
    "ChangesGradients",
    "Combiner",
    "Corruption",
    "Dataset",
    "Deployed",
    "Description",
    "Distiller",
    "DistillerParams",
    "DoesBackward",
    "Draw",
    "DrawsSlots",
    "Evaluated",
    "Features",
    "ForwardsAgain",
    "FromCounts",
    "Fusion",
    "FusionTraits",
    "LeftOut",
    "MeanOverCells",
    "Metric",
    "Needs",
    "Ordered",
    "OrderedParams",
    "Output",
    "Outputs",
    "OwnHeads",
    "PairShapes",
    "Parameters",
    "PerCell",
    "PerModality",
    "Policy",
    "PolicyTraits",
    "Preparation",
    "Progress",
    "ReadsValidation",
    "Register",
    "Renormalise",
    "ReplacesHead",
    "Routing",
    "SolvedOnce",
    "StepsInTurn",
    "TakesStep",
    "Task",
    "TransformsLogits",
    "content_digest",
    "each_teacher",
    "hookimpl",
    "input_gradient",
    "masked_mean",
    "mean_teacher",
    "middle_square",
    "modality_logits",
    "over_rows",
    "param",
    "route_names",
    "stage_shapes",
    "weighted",
    "without",
]  # fmt: skip
