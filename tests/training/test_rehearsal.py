"""The dress rehearsal passes whatever the plan lets through: a study must not stop before its first trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import request_from
from wbcbench.testing.components import registry
from wbcbench.training.rehearsal import rehearse

FUSIONS = sorted(c.name for c in registry().components("fusion") if c.name != "knn")  # which needs trained weights


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_was_planned_can_be_rehearsed(fusion: str) -> None:
    tree = {
        "dataset": {"name": "synthetic", "cells": 60, "image_size": 16},
        "modalities": ["brightfield", "nucleus"],
        "backbone": {"name": "cellnet", "width": 4},
        "teacher": {"backbone": {"name": "cellnet", "width": 6}},
        "fusion": [fusion],
        "kd": ["none", "rkd", "at"],
        "incompatible": "skip",
    }
    plan = make_plan(request_from(tree, {}, (), where="here"), registry())
    data = replace(plan.description, modalities=dict.fromkeys(plan.description.modalities, 1))
    for planned in plan.trials:
        rehearse(planned.trial, data, registry())
