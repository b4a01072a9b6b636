"""The resources of a trial, how many trials fit on a machine, and the cost of a plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from wbcbench.data.splits import training_cells
from wbcbench.errors import UsageError
from wbcbench.files import DOCUMENTS
from wbcbench.records.store import Store
from wbcbench.scheduling.plan import Plan
from wbcbench.spec import Trial, digest
from wbcbench.spec.request import Request


@dataclass(frozen=True)
class Share:
    """Cores and GPUs of one trial."""

    cpus: int
    gpus: float
    """A share of one GPU (0.25: four trials share it), or a whole number of GPUs."""


def share_of(request: Request, gpus: int) -> Share:
    """The resources of a trial: as requested, else one core and, where there are GPUs, a whole one.

    A whole GPU is the safe default: Ray only counts shares, it does not divide a GPU's memory.

    Raises:
        UsageError: a GPU is to be used, but the share is zero.
    """
    wanted = request.gpus_per_trial
    if wanted is None:
        wanted = 1.0 if request.device == "cuda" or (request.device == "auto" and gpus > 0) else 0.0
    if request.device == "cuda" and not wanted:
        raise UsageError("Expected a share of a GPU for --device cuda, but got none. Give --gpus-per-trial 1")
    return Share(request.cpus_per_trial or request.threads or 1, 0.0 if request.device == "cpu" else wanted)


def slots(cpus: int, gpus: int, share: Share) -> int:
    """How many trials of a share fit on a machine with so many cores and GPUs."""
    by_cpu = cpus // share.cpus
    if not share.gpus:
        return by_cpu
    by_gpu = gpus // int(share.gpus) if share.gpus >= 1 else gpus * int(1 / share.gpus + 1e-9)
    return min(by_cpu, by_gpu)


def check_feasible(share: Share, nodes: list[tuple[int, int]]) -> int:
    """How many trials fit on nodes of (cores, GPUs) at a time.

    Raises:
        UsageError: not even one fits. Ray would wait forever.
    """
    fit = sum(slots(cpus, gpus, share) for cpus, gpus in nodes)
    if not fit:
        cpus, gpus = max(nodes, key=lambda node: node[::-1], default=(0, 0))
        raise UsageError(
            f"Expected a trial's share to fit on one node, but {share.cpus} CPUs and {share.gpus:g} GPUs were "
            f"requested, and the largest node has {cpus} CPUs and {gpus} GPUs. Lower --cpus-per-trial or "
            "--gpus-per-trial."
        )
    return fit


GUESSED_SPEED = 1000.0
"""Training cells per second where no earlier run is known: a small network on one core."""
ENOUGH = 2000
"""Maximum number of records that are read for speeds."""


def estimate(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """One JSON-able row per planned trial: identity, whether it is done, its expected cost.

    `cell_views` is training cells x epochs; `estimated_seconds` is None if there is no similar trial.
    """
    speeds = _speeds(store)
    rows = []
    for planned in plan.trials:
        trial = planned.trial
        views = train_cells(plan, trial) * trial.protocol.budget.epochs
        speed = speeds.get(_likeness(trial.model_dump(mode="json")))
        rows.append(
            {
                "trial_id": trial.id,
                "role": planned.role,
                "method": trial.label,
                "fusion": trial.method.fusion.name,
                "kd": trial.method.kd,
                "policies": [p.name for p in trial.method.policies],
                "backbone": trial.method.backbone_name,
                "seed": trial.seed,
                "fold": trial.fold,
                "needs": list(planned.needs),
                "done": store.has(trial.id),
                "cell_views": views,
                "estimated_seconds": None if speed is None else round(views / speed, 1),
            }
        )
    return rows


def train_cells(plan: Plan, trial: Trial | None = None) -> int:
    """Approximate number of training cells of a trial (default: the plan's first); exact for an official split."""
    trial, d = trial or plan.trials[0].trial, plan.description
    return training_cells(trial.protocol.split, d.cells, d.split_sizes, d.group_count, d.fold_sizes, trial.fold)


def _likeness(spec: dict[str, Any]) -> str:
    """A key for similar trials, which train at about the same speed."""
    method, protocol = spec["method"], spec["protocol"]
    return digest(
        {
            "fusion": method["fusion"],
            "backbone": method["backbone"],
            "image_size": protocol["image_size"],
            "modalities": len(protocol["modalities"]),
        }
    )


def _speeds(store: Store) -> dict[str, float]:
    """Likeness -> median training cells per second over the store's records.

    Speeds are only estimates, so records are not checked, and a sample is enough in a large store. The first names
    are a random sample, since names are digests.
    """
    seen: dict[str, list[float]] = {}
    for folder in islice(store.folders(), ENOUGH):
        try:
            result, spec = (json.loads((folder / name).read_bytes()) for name in ("result.json", "spec.json"))
            speed = result["cost"]["train_images_per_second"]
            if isinstance(speed, int | float) and speed > 0:
                seen.setdefault(_likeness(spec), []).append(speed)
        except (OSError, *DOCUMENTS, KeyError, TypeError):
            continue  # a damaged record is reported where it is read for a table
    return {likeness: median(speeds) for likeness, speeds in seen.items()}
