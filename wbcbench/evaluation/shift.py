"""Distribution shift: how far cells are from those that a network was trained on, per cell and per batch of cells.

What is compared, in views: the embedding of each of the network's routes, and simple statistics of each modality's
images, since a network may be blind to what it does not use. A cell's distance in a view is its Mahalanobis
distance from the mean of the training cells of its predicted class, so that a batch with other class frequencies
is not far away. Distances of validation cells, which the network was not fitted to, calibrate both scores.

The choices were made by `tests/benchmarks/shifts.py`, which compares them with others.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wbcbench.contracts import Outputs
from wbcbench.errors import RecordError
from wbcbench.files import ARRAYS

VERSION = 1
FITTED, HELD_OUT = 4096, 1024
"""At most so many training and validation cells are compared with; they are spread evenly over each side."""
FEWEST = 12
"""A view with fewer validation cells cannot be calibrated and is left out."""
QUANTILE = 0.99
"""A cell at distance 1 is as far away as this share of validation cells are at most."""
SIGMAS = 3.0
"""A batch is unlike the training cells if its score in one of the views exceeds `limit` and is also `SIGMAS`
standard deviations above that of equal cells, which a few cells cannot be."""
MANY, FEW = 0.25, 3
"""So is a batch of which this share or more, and at least `FEW` cells, are beyond distance 1: part of it may be of
another source."""
DIRECTIONS = 32
"""Principal directions of a view that are kept; what is outside of them counts as one more."""
_FLAT = 0.05
"""Smallest spread of a feature, as a share of the mean spread: a feature that is constant over the training cells
would otherwise make every other value infinitely far away."""
_SMALLEST_CLASS = 5
_PIXELS = 4096
_NETWORK, _IMAGE = "network", "images"


def limit(view: str) -> float:
    """The score above which a batch is unlike the training cells. Embeddings of new donors differ more than their
    images do, and small changes of scale show in the images only."""
    return 0.75 if view.startswith(_IMAGE) else 0.85


@dataclass
class Evidence:
    """What is compared, of n cells."""

    views: dict[str, NDArray[np.float32]]
    """View -> [n, d]."""
    seen: dict[str, NDArray[np.bool_]]
    """View -> [n], the cells that have every image which the view depends on."""
    classes: NDArray[np.int64]
    """[n], predicted."""

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Of several batches of one network, at least one."""
        names = list(parts[0].views)
        return cls(
            {v: np.concatenate([p.views[v] for p in parts]) for v in names},
            {v: np.concatenate([p.seen[v] for p in parts]) for v in names},
            np.concatenate([p.classes for p in parts]),
        )


def measure(
    images: Mapping[str, Tensor], outputs: Outputs, probabilities: Tensor, present: Tensor | None
) -> Evidence:
    """The evidence of one batch.

    Args:
        images: modality -> [B, C, S, S], normalised.
        outputs: the fusion's, of these images.
        probabilities: [B, K].
        present: [B, M] in the order of `images`; None: all are.
    """
    here = torch.ones(len(probabilities), len(images), dtype=torch.bool) if present is None else present.cpu()
    views: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    known: set[int] = set()
    for route, out in outputs.items():
        x = out.embedding
        if x is None or len(x) != len(here) or not x[0].numel():  # `majority` has an empty one
            continue
        if x.data_ptr() not in known:  # routes may share a trunk
            known.add(x.data_ptr())
            views[f"{_NETWORK} {route}"] = x.detach().float().flatten(1)
            seen[f"{_NETWORK} {route}"] = here.all(1)
    for column, (m, x) in enumerate(images.items()):
        views[f"{_IMAGE} {m}"] = image_statistics(x)
        seen[f"{_IMAGE} {m}"] = here[:, column]
    return Evidence(
        {v: np.nan_to_num(x.cpu().numpy(), posinf=1e6, neginf=-1e6) for v, x in views.items()},
        {v: s.numpy() for v, s in seen.items()},
        probabilities.argmax(1).cpu().numpy(),
    )


def image_statistics(x: Tensor) -> Tensor:
    """[B, C, S, S] normalised images -> [B, d]: brightness and its spread and quantiles, detail at three scales,
    brightness by distance from the centre, and correlations between channels. Vectors [B, F] stay as they are."""
    if x.ndim == 2:
        return x
    flat = x.flatten(2)
    mean, sd = flat.mean(2), flat.std(2, correction=0) + 1e-3
    some = flat[:, :, :: math.ceil(flat.shape[2] / _PIXELS)].sort(2).values
    quantiles = some[:, :, [round(q * (some.shape[2] - 1)) for q in (0.05, 0.5, 0.95)]]
    found = [mean, sd.log(), quantiles.flatten(1)]
    scaled = x
    for _ in range(3):
        if scaled.shape[-1] >= 4:
            smooth = F.avg_pool2d(scaled, 3, 1, 1, count_include_pad=False)
            detail = (scaled - smooth).flatten(2).std(2, correction=0)
            found.append((detail + 1e-3).log() - sd.log())
            scaled = F.avg_pool2d(scaled, 2)
    at = torch.arange(x.shape[-1], device=x.device) - (x.shape[-1] - 1) / 2
    radius = (at[:, None] ** 2 + at[None] ** 2).sqrt() / (x.shape[-1] / 2)
    for low, high in ((0.0, 0.35), (0.35, 0.7), (0.7, 1.01)):
        found.append(x[:, :, (radius >= low) & (radius < high)].mean(2))
    if 1 < x.shape[1] <= 8:
        unit = (flat - mean[..., None]) / sd[..., None]
        rows, columns = torch.triu_indices(x.shape[1], x.shape[1], 1)
        found.append((unit @ unit.transpose(1, 2) / flat.shape[2])[:, rows, columns])
    return torch.cat(found, 1)


def pixel_digests(images: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """[n] digests of cells' pixels, as stored: modality -> [n, C, S, S] uint8 or uint16; zero where missing."""
    count = len(next(iter(images.values())))
    found = np.empty(count, np.uint64)
    for row in range(count):
        hashed = hashlib.blake2b(digest_size=8)
        for image in images.values():
            hashed.update(np.ascontiguousarray(image[row]).tobytes())
        found[row] = int.from_bytes(hashed.digest(), "little")
    return found


@dataclass(frozen=True)
class View:
    """The training cells in one view with d features."""

    centres: NDArray[np.float32]
    """[K, d], the mean of each predicted class."""
    spread: NDArray[np.float32]
    """[d], standard deviation of each feature within classes."""
    directions: NDArray[np.float32]
    """[d, k], orthonormal principal directions of the features divided by their spread."""
    sds: NDArray[np.float32]
    """[k], the standard deviation along each; the last, [k + 1], is of all other directions together, or 0."""
    held_out: NDArray[np.float32]
    """[m] distances of validation cells; NaN for those that the view does not see."""

    @classmethod
    def fitted(cls, values: NDArray[np.float32], classes: NDArray[np.int64], n_classes: int) -> View:
        """From training cells [n, d] and their predicted classes [n]; `held_out` is empty."""
        x = values.astype(np.float64)
        centres = np.repeat(x.mean(0)[None], n_classes, 0)
        for k in range(n_classes):
            if (classes == k).sum() >= _SMALLEST_CLASS:
                centres[k] = x[classes == k].mean(0)
        x = x - centres[classes]
        spread = x.std(0)
        spread = np.maximum(spread, max(_FLAT * float(spread.mean()), 1e-6))
        found, directions = np.linalg.eigh(shrunk_covariance(x / spread))
        order = np.argsort(-found)
        variances = np.maximum(found[order], 1e-6)
        sds = np.sqrt(np.append(variances[:DIRECTIONS], variances[DIRECTIONS:].sum()))
        kept = directions[:, order[:DIRECTIONS]]
        return cls(*(x.astype(np.float32) for x in (centres, spread, kept, sds, np.zeros(0))))

    def distances(self, values: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n] of cells [n, d]."""
        x = (values - self.centres[classes]) / self.spread
        along = x @ self.directions
        squares, count = ((along / self.sds[:-1]) ** 2).sum(1), len(self.sds) - 1
        if self.sds[-1]:
            others = np.maximum((x**2).sum(1) - (along**2).sum(1), 0.0)
            squares, count = squares + others / self.sds[-1] ** 2, count + 1
        return np.asarray(np.sqrt(squares / count), dtype=np.float32)

    def score(self, distances: NDArray[np.float32]) -> tuple[float, float]:
        """The probability that a cell of a batch is further away than a validation cell, and the standard
        deviation of this for as many cells of the training source."""
        held = np.sort(self.held_out[np.isfinite(self.held_out)])
        n, m = len(distances), len(held)
        below, upto = (np.searchsorted(held, distances, side) for side in ("left", "right"))
        return float((below + upto).mean() / (2 * m)), math.sqrt((n + m + 1) / (12 * n * m))


def shrunk_covariance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[d, d] covariance of centred values [n, d], shrunk towards a multiple of the identity: Ledoit and Wolf,
    Journal of Multivariate Analysis 88, 2004. That of scikit-learn takes a second to import in every training."""
    n, d = x.shape
    found = x.T @ x / n
    target = np.trace(found) / d * np.eye(d)
    apart = ((found - target) ** 2).sum()
    noise = (((x**2).sum(1) ** 2).mean() - (found**2).sum()) / n
    weight = min(1.0, noise / apart) if apart > 0 else 0.0
    return np.asarray(weight * target + (1 - weight) * found)


@dataclass(frozen=True)
class Judged:
    """How far the cells of a batch are from the training cells."""

    distances: NDArray[np.float32]
    """[n]; 1: as far away as 1 % of validation cells; NaN for a cell that no view sees."""
    cells: int
    """Cells that the scores are of, without those used in training."""
    scores: dict[str, float]
    """View -> score of the batch: 0.5 for validation cells, 1 if every cell is further away than all of these."""
    unlike: tuple[str, ...]
    """The views in which the batch as a whole is unlike the training cells, the most unlike first."""
    far: int
    """How many of `cells` are beyond distance 1."""

    @property
    def score(self) -> float | None:
        """The highest score; None without a cell that can be judged."""
        return max(self.scores.values(), default=None)

    @property
    def alarm(self) -> bool:
        """Whether the batch, or much of it, is unlike the training cells."""
        return bool(self.unlike) or self.far >= max(FEW, MANY * self.cells)


USES = ("", "training", "validation")


@dataclass(frozen=True)
class Reference:
    """The training cells of one network, as far as other cells are compared with them."""

    record: str
    """The digest of the network's record."""
    views: dict[str, View]
    scale: float
    """The distance, as a multiple of the views' quantiles, that counts as 1."""
    training: NDArray[np.uint64]
    """[n] sorted digests of the training cells' pixels."""
    validation: NDArray[np.uint64]

    @classmethod
    def fitted(
        cls,
        record: str,
        n_classes: int,
        fit: Evidence,
        held_out: Evidence,
        training: NDArray[np.uint64],
        validation: NDArray[np.uint64],
    ) -> Reference:
        """From the evidence of training and validation cells, and the digests of all of them."""
        views = {}
        for name, values in fit.views.items():
            there, held = fit.seen[name], held_out.seen[name]
            if there.sum() < FEWEST or held.sum() < FEWEST:
                continue
            view = View.fitted(values[there], fit.classes[there], n_classes)
            found = view.distances(held_out.views[name], held_out.classes)
            views[name] = replace(view, held_out=np.where(held, found, np.float32(np.nan)))
        made = cls(record, views, 1.0, np.unique(training), np.unique(validation))
        if not views:
            return made
        own = made._furthest({name: view.held_out for name, view in views.items()})
        return replace(made, scale=float(np.nanquantile(own, QUANTILE)))

    def used_for(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n] index into `USES`: what this network's training used each cell for."""
        return np.where(np.isin(digests, self.training), 1, np.where(np.isin(digests, self.validation), 2, 0))

    def judge(self, evidence: Evidence, used: NDArray[np.int64]) -> Judged:
        """Distances and scores.

        Args:
            evidence: of n cells.
            used: [n], see `used_for`. The scores leave out the cells that training used, to which the network is
                fitted.
        """
        distances = {
            name: np.where(evidence.seen[name], view.distances(evidence.views[name], evidence.classes), np.nan)
            for name, view in self.views.items()
            if name in evidence.views
        }
        fresh = used == 0
        scores, unlike = {}, []
        for name in distances:
            view = self.views[name]
            these = distances[name][fresh & evidence.seen[name]]
            if len(these):
                scores[name], sd = view.score(these)
                if scores[name] > limit(name) and scores[name] - 0.5 > SIGMAS * sd:
                    unlike.append(name)
        unlike.sort(key=lambda name: -scores[name])
        found = self._furthest(distances) / self.scale if distances else np.full(len(used), np.nan)
        far = int((found[fresh] > 1).sum())
        return Judged(found.astype(np.float32), int(fresh.sum()), scores, tuple(unlike), far)

    def _furthest(self, distances: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """[n], the largest multiple of a view's own quantile; NaN where no view sees the cell."""
        multiples = [
            d / max(float(np.nanquantile(self.views[name].held_out, QUANTILE)), 1e-6)
            for name, d in distances.items()
        ]
        return np.asarray(np.fmax.reduce(multiples))

    def to_bytes(self) -> bytes:
        """As a compressed .npz with a checksum, without pickles."""
        meta = {"version": VERSION, "record": self.record, "scale": self.scale, "views": list(self.views)}
        arrays: dict[str, NDArray[Any]] = {"training": self.training, "validation": self.validation}
        for i, view in enumerate(self.views.values()):
            arrays |= {f"{i}.{part}": getattr(view, part) for part in _PARTS}
        text = json.dumps(meta | {"sha256": _sha256(meta, arrays)}).encode()
        buffer = io.BytesIO()
        arrays["meta"] = np.frombuffer(text, np.uint8)
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # it takes "allow_pickle" for one of the names
        return buffer.getvalue()

    @classmethod
    def of_bytes(cls, data: bytes) -> Reference:
        """Raises `RecordError` for what `to_bytes` did not make."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = dict(file)
            meta = json.loads(arrays.pop("meta").tobytes())
            if meta["version"] != VERSION:
                raise ValueError(f"it has version {meta['version']}, and this wbcbench reads {VERSION}")
            if meta.pop("sha256") != _sha256(meta, arrays):
                raise ValueError("it does not match its checksum")
            views = {v: View(*(arrays[f"{i}.{part}"] for part in _PARTS)) for i, v in enumerate(meta["views"])}
            return cls(meta["record"], views, float(meta["scale"]), arrays["training"], arrays["validation"])
        except ARRAYS as error:
            raise RecordError(f"The reference of its training cells is damaged ({error}).") from error


def _sha256(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    hashed = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


_PARTS = ("centres", "spread", "directions", "sds", "held_out")


__all__ = [
    "USES",
    "Evidence",
    "Judged",
    "Reference",
    "View",
    "image_statistics",
    "limit",
    "measure",
    "pixel_digests",
]
