"""Fitting what is solved in one go instead of trained by gradient: the floors of a leaderboard."""

from __future__ import annotations

import time

import torch

from wbcbench.training.loop import EpochDone, Job, judge, selection_score
from wbcbench.training.optim import class_weights
from wbcbench.training.state import TrainState

_CHUNK = 256


@torch.no_grad()
def fit_once(job: Job, done: EpochDone | None = None) -> TrainState:
    """Show the fusion every training cell once, unaugmented, and let it solve. One row of history.

    The seed has no part in it, except for a fusion that draws by itself.
    """
    fusion, cells, reads = job.fusion, job.cells, job.trial.reads
    started = time.perf_counter()
    fusion.to(job.device).eval()
    parts = []
    for chunk in torch.split(job.train, _CHUNK):
        images = {m: cells.images(chunk, m) for m in reads}
        parts.append(fusion.features(images, cells.present(chunk, reads)))
    labels = cells.labels[job.train]
    counts = torch.bincount(labels, minlength=len(cells.classes))
    weights = class_weights(counts.cpu(), job.trial.method.recipe.class_weighting)
    fusion.solve(torch.cat(parts), labels, weights)
    state = TrainState(torch.nn.ModuleDict({"fusion": fusion}), torch.optim.SGD([torch.zeros(1)]))
    state.train_seconds = time.perf_counter() - started

    selected, metrics, _ = judge(job, state)
    state.consider(selection_score(job.trial.protocol.selection.metric, metrics, 0), selected)
    row = {"epoch": 0, **{f"val_{k}": v for k, v in metrics.items()}}
    state.history.append(row)
    state.epoch = 1
    if done is not None:
        done(0, 1, row)
    return state
