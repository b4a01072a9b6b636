"""Parts that are fitted, not trained by gradient: combiners on validation cells, and baseline fusions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wbcbench.contracts import Fusion, SolvedOnce
from wbcbench.data.counter import counter_hash
from wbcbench.data.views import ResidentCells
from wbcbench.evaluation.predict import Predictions, complete, forward_all, predict
from wbcbench.training.build import combiner_of
from wbcbench.training.frozen import Plain
from wbcbench.training.loop import EpochDone, Job, class_weights, judge, selection_score
from wbcbench.training.state import TrainState

FOLDS = 5


def folds(ids: Tensor, labels: Tensor, count: int = FOLDS) -> Tensor:
    """[n] fold of each cell, 0 .. count - 1; sizes differ by at most one, overall and within a class.

    Depends only on the cells: every method and seed has the same folds.

    Args:
        ids: [n] cell ids.
        labels: [n].
        count: number of folds.
    """
    hashed = counter_hash("combiner", ids)
    assert isinstance(hashed, Tensor)
    order = torch.argsort(hashed, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    found = torch.empty_like(ids)
    found[order] = torch.arange(len(ids), device=ids.device) % count
    return found


def fit_combiner(fusion: Fusion, cells: ResidentCells, val: Tensor, modalities: tuple[str, ...]) -> Predictions:
    """Fit the combiner on the validation cells `val` [n]; returns cross-fitted predictions for them.

    For each fold, the combiner is reset, fitted on the other folds' complete cells, and predicts the fold. Finally
    it is fitted on all of them. Costs two passes over the validation cells.
    """
    combiner = combiner_of(fusion)
    assert combiner is not None
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    judges = complete(cells, val, modalities)  # a head's output for an absent image says nothing about the head
    outputs = forward_all(fusion, cells, judges, modalities)[0]
    labels = cells.labels[judges]
    fold = folds(val, cells.labels[val])
    fold_of_cell = torch.zeros_like(cells.labels)
    fold_of_cell[val] = fold
    parts, places = [], []
    for k in range(FOLDS if len(val) > 1 else 0):
        mine, others = (fold == k).nonzero()[:, 0], (fold_of_cell[judges] != k).nonzero()[:, 0]
        if not len(mine):
            continue
        if len(others):
            combiner.fit_combiner({r: out.select(others) for r, out in outputs.items()}, labels[others])
        parts.append(predict(fusion, cells, val[mine], modalities))
        places.append(mine.cpu().numpy())
        fusion.load_state_dict(before)
    combiner.fit_combiner(outputs, labels)
    return _joined(parts, np.concatenate(places)) if parts else predict(fusion, cells, val, modalities)


def _joined(parts: Sequence[Predictions], place: np.ndarray) -> Predictions:
    """Predictions of all folds; row i of their concatenation is moved to `place[i]`."""
    order = np.argsort(place)

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(arrays))[order]

    return Predictions(
        cells=join([p.cells for p in parts]),
        labels=join([p.labels for p in parts]),
        probabilities=join([p.probabilities for p in parts]),
        routes={r: join([p.routes[r] for p in parts]) for r in parts[0].routes},
        shown={r: join([p.shown[r] for p in parts]) for r in parts[0].shown},
    )


_CHUNK = 256


@torch.no_grad()
def fit_once(job: Job, done: EpochDone | None = None) -> TrainState:
    """Show the fusion every training cell once, unaugmented, then call its solver. One row of history.

    The seed has no effect, unless the fusion itself draws random numbers.
    """
    fusion, cells, reads = job.fusion, job.cells, job.trial.reads
    assert isinstance(fusion, SolvedOnce)
    started = time.perf_counter()
    fusion.to(job.device).eval()
    shown = Plain(cells).epoch(0) if job.embedded is None else job.embedded.train.epoch(0)
    parts = []
    with job.reading():
        for chunk in torch.split(job.train, _CHUNK):
            images = {m: shown(m, chunk) for m in reads}
            parts.append(fusion.features(images, cells.present(chunk, reads)))
    labels = cells.labels[job.train]
    counts = torch.bincount(labels, minlength=len(cells.classes))
    weights = class_weights(counts.cpu(), job.trial.method.recipe.class_weighting)
    fusion.solve(torch.cat(parts), labels, weights)
    state = TrainState(torch.nn.ModuleDict({"fusion": fusion}), torch.optim.SGD([torch.zeros(1)]))
    state.train_seconds = time.perf_counter() - started

    selected, metrics, *_ = judge(job, state)
    state.consider(selection_score(job.trial.protocol.selection.metric, metrics, 0), selected)
    row = {"epoch": 0, **{f"val_{k}": v for k, v in metrics.items()}}
    state.history.append(row)
    state.epoch = 1
    if done is not None:
        done(0, 1, row)
    return state
