"""Predictions of a trained fusion on unaugmented cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbcbench.contracts import Fusion, Output, Outputs
from wbcbench.contracts.output import shown_in
from wbcbench.data.views import ResidentCells, laid_out


def eval_batch(device: torch.device) -> int:
    """Cells per forward pass without gradients; on a CPU few enough for a layer's activations to fit its cache."""
    return 64 if device.type == "cpu" else 256


@dataclass
class Predictions:
    """A fusion's predictions for n cells."""

    cells: NDArray[np.int64]
    """[n] stable cell ids."""
    labels: NDArray[np.int64]
    """[n]."""
    probabilities: NDArray[np.float32]
    """[n, K], the fusion's prediction."""
    routes: dict[str, NDArray[np.float32]]
    """Route -> [n, K] probabilities."""
    shown: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Route -> [n], the cells for which it had any input; no entry: all of them."""

    def losses(self) -> dict[str, float]:
        """Route -> mean cross-entropy over the cells for which it had input, without class weights; 0 if none."""
        found = {}
        for route, p in self.routes.items():
            own = np.take_along_axis(p, self.labels[:, None], 1)[:, 0]
            own = own[self.shown[route]] if route in self.shown else own
            found[route] = float(-np.log(np.clip(own, 1e-12, 1)).mean()) if len(own) else 0.0
        return found


class Shown(Protocol):
    """What a fusion is shown of cells: `ResidentCells`, or what stands for their images."""

    labels: Tensor

    def images(self, cells: Tensor, modality: str) -> Tensor: ...

    def present(self, cells: Tensor, modalities: tuple[str, ...]) -> Tensor | None: ...


@torch.no_grad()
def forward_all(fusion: Fusion, cells: Shown, ids: Tensor, modalities: tuple[str, ...]) -> tuple[Outputs, Tensor]:
    """Outputs of every route over the given cells [n], in eval mode, and the fusion's probabilities [n, K].

    Restores the fusion's training or eval mode.
    """
    was_training = fusion.training
    fusion.eval()
    parts: list[Outputs] = []
    probs: list[Tensor] = []
    for chunk in torch.split(ids, eval_batch(ids.device)):
        images = {m: laid_out(cells.images(chunk, m)) for m in modalities}
        present = cells.present(chunk, modalities)
        outputs = {route: out.float() for route, out in fusion(images, present).items()}
        for out in outputs.values():
            out.shown = shown_in(present, out.reads, modalities)
        probs.append(fusion.predict(outputs, present).float())
        parts.append(outputs)
    fusion.train(was_training)
    return {route: joined([p[route] for p in parts]) for route in parts[0]}, torch.cat(probs)


def predict(fusion: Fusion, cells: Shown, ids: Tensor, modalities: tuple[str, ...]) -> Predictions:
    """Probabilities for the given cells, of the fusion and of each route."""
    return predictions_of(*forward_all(fusion, cells, ids, modalities), cells, ids)


def predictions_of(outputs: Outputs, probs: Tensor, cells: Shown, ids: Tensor) -> Predictions:
    """The predictions that `forward_all` made for the given cells."""
    return Predictions(
        cells=ids.cpu().numpy(),
        labels=cells.labels[ids].cpu().numpy(),
        probabilities=probs.cpu().numpy(),
        routes={r: o.logits.softmax(1).cpu().numpy() for r, o in outputs.items()},
        shown={r: o.shown.cpu().numpy() for r, o in outputs.items() if o.shown is not None},
    )


def complete(cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...]) -> Tensor:
    """The cells [n] that have every modality; all cells if some class would have none."""
    present = cells.present(ids, modalities)
    if present is None:
        return ids
    whole = ids[present.all(1)]
    return whole if set(cells.labels[whole].tolist()) == set(cells.labels[ids].tolist()) else ids


def joined(parts: list[Output]) -> Output:
    """One route's outputs of several batches, concatenated, without maps."""
    embeddings = [p.embedding for p in parts if p.embedding is not None]
    shown = [p.shown for p in parts if p.shown is not None]
    return Output(
        logits=torch.cat([p.logits for p in parts]),
        embedding=torch.cat(embeddings) if len(embeddings) == len(parts) else None,
        reads=parts[0].reads,
        shown=torch.cat(shown) if len(shown) == len(parts) else None,
    )
