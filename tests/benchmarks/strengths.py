"""How strongly every distiller pulls at its default weight: its gradient in units of the task loss's.

    python tests/benchmarks/strengths.py [--config request.yaml ...] [--epochs 5] [--json]

Per data condition (synthetic cells, or that of each config file), teachers and one untaught student are trained.
Then every distiller takes one step on a batch of 64 cells with `weight=balanced`, once from the student's first
weights and once from its trained ones. The weight that balances is 1 / ratio, so default / balanced is the ratio
at the default weight. Adapters are untrained in both cases. What stays blank has no ratio: it
replaces the task loss, or its gradient is zero.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from wbcbench.data.views import Views
from wbcbench.errors import WbcbenchError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request
from wbcbench.training.build import build_fusion, task_of
from wbcbench.training.loop import Job, make_optimiser, train_epoch
from wbcbench.training.state import TrainState
from wbcbench.training.trial import run_trial
from wbcbench.training.wiring import add_distillers
from wbcbench.training.workbench import Workbench, pick_device

CELLS = 64


def balanced_weight(trial: Trial, bench: Workbench, weights: dict[str, torch.Tensor] | None) -> dict[str, float]:
    """Distiller -> the weight that balances it for a student with these weights; None: its first ones."""
    cells, split = bench.resident(trial), bench.split(trial)
    train, val = (torch.as_tensor(ids, device=bench.device) for ids in (split.train, split.val))
    some = train[torch.linspace(0, len(train) - 1, CELLS).long()]
    fusion = build_fusion(trial, task_of(trial, cells), bench.registry)
    if weights is not None:
        fusion.load_state_dict(weights)
    job = Job(trial, cells, Views(cells, trial.protocol.augmentation, trial.seed), some, val, fusion)
    add_distillers(job, [bench.store.load(t.id) for t in trial.method.teachers], bench, split.hash)
    assert job.distillation is not None
    modules = torch.nn.ModuleDict({"fusion": job.fusion, "distillation": job.distillation})
    if job.bank is not None:
        job.bank.start_epoch(0)
    class_weights = torch.ones(len(cells.classes), device=bench.device)
    train_epoch(job, TrainState(modules, make_optimiser(modules, trial.method.recipe)), class_weights, 0)
    return job.distillation.weights()


def condition(request: Request, registry: Registry, folder: Path) -> list[dict[str, Any]]:
    """One row per distiller: its default weight, and its ratio at it, early and late."""
    store = Store(folder)
    bench = Workbench(store, registry, pick_device("auto"), replay=False)  # a part of the cells has its own stream
    plan = make_plan(request.model_copy(update={"kd": load_request(None, {"kd": "none,logits"}).kd}), registry)
    bench.add_dataset(plan.description.fingerprint, plan.dataset)
    for planned in plan.trials:
        if planned.role == "teacher" or planned.trial.method.kd == "none":
            run_trial(planned.trial, bench)
    (student,) = (p.trial for p in plan.trials if p.role == "student" and p.trial.method.kd == "none")
    trained = store.load(student.id).weights()
    rows = []
    for component in registry.components("distiller"):
        if not component.builtin or component.name == "none":
            continue
        default = registry.declared("distiller", component.name).params.model_fields["weight"].default
        row: dict[str, Any] = {"distiller": component.name, "weight": default, "early": None, "late": None}
        rows.append(row)
        try:
            kd = load_request(None, {"kd": f"{component.name}:weight=balanced"}).kd
            trial = make_plan(request.model_copy(update={"kd": kd}), registry).trials[-1].trial
            for when, weights in (("early", None), ("late", trained)):
                found = balanced_weight(trial, bench, weights)[component.name]
                row[when] = None if found == default else default / found
        except WbcbenchError as error:
            row["why"] = str(error).split(". ")[0]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    registry, _ = load_plugins()
    small = ("dataset.cells=400", "dataset.image_size=24", "backbone.width=8", "teacher.backbone=cellnet:width=12")
    found = {}
    for config in args.config or [None]:
        flags = {"fusion": "early", "epochs": args.epochs, "seeds": "0"}
        request = load_request(config, flags, () if config else small)
        with tempfile.TemporaryDirectory() as folder:
            found[str(config or "synthetic")] = condition(request, registry, Path(folder))
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for name, rows in found.items():
        print(f"\n{name}: gradient of the distiller / of the task, at the default weight")
        print(tabulate(rows, headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    main()
