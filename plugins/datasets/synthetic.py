"""Rendered white blood cells whose class evidence is split across modalities by known amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import (
    Cells,
    Dataset,
    Description,
    Progress,
    content_digest,
    numbered,
    resize_stack,
)
from wbcbench.contracts.params import Parameters, param

RENDERER_VERSION = 1
"""Raise it whenever the same parameters would give other pixels: it is part of the fingerprint."""

CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
MODALITIES = {"brightfield": 3, "nucleus": 1, "granule": 1}

GROUPS = {
    "brightfield": (0, 0, 1, 0, 0),  # the large cell: monocyte
    "nucleus": (1, 0, 0, 1, 0),  # the lobed nuclei: neutrophil, eosinophil
    "granule": (0, 0, 0, 1, 1),  # the coarse granules: eosinophil, basophil
}
"""Modality -> which of two groups each class is in, for evidence that is unique to the modality.

One modality tells two groups apart and no more; all three together identify each of the five classes.
"""

KINDS = ("redundant", "unique", "synergy", "none")


class Synthetic(Dataset):
    """Rendered leukocytes of two to five classes in a stained smear and two fluorescence channels.

    Every image shows the look of one class: cell size, nucleus, colour and granules in `brightfield`,
    number and shape of the lobes in `nucleus`, number and size of the granules in `granule`. Which
    class's look depends on the kind of the cell, drawn with these probabilities:

    - `redundant`: all three modalities show the true class. Each of them suffices.
    - `unique`: each modality shows a class drawn from a group of classes that the true one is in, and
      the groups differ: lobed nucleus or not, coarse granules or not, large cell or not. One modality
      tells two groups apart; only together do they identify the class.
    - `synergy`: `nucleus` shows a class at random, and `granule` the one that makes the two numbers add
      up to the label modulo `classes`; with two classes that is XOR. `brightfield` shows a class at
      random. Each modality, and `brightfield` with any one other, is independent of the label.
    - the rest, if the three add up to less than 1: every modality shows a class at random, so that no
      classifier can be right. If they add up to more than 1 they are divided by their sum.

    So the modalities of a cell that is not redundant contradict each other on purpose, as those of no
    real cell would: with `redundant=0, unique=0, synergy=1, classes=2` one modality alone is at chance
    by construction. Evidence is in counts, shapes and sizes, which survive flips, rotation, small
    zooms and shifts, gain and offset.

    With `markers` there is a fourth modality of so many numbers, as of a flow cytometer: Gaussian, with a mean for
    each class, in units of their own, and 5 % of them missing. It always shows the true class.

    `difficulty` spreads the looks of a class, blurs, and lets images occasionally show a wrong
    class; `noise` is that of the camera. Donors have a stain and an illumination of their own.

    Equal parameters give equal pixels; another linear algebra library may round one a grey level away.
    """

    name = "synthetic"
    source = "rendered by wbcbench; no measured cell is in it"

    class Params(Parameters):
        cells: int = param(2000, "Cells to render.", ge=10, le=200_000)
        image_size: int = param(64, "Native side in pixels.", ge=16, le=256)
        seed: int = param(0, "Seed of everything that is drawn.", ge=0)
        donors: int = param(20, "Donors, each with its own stain and illumination.", ge=1, le=1000)
        classes: int = param(5, "How many of the five classes, from the first.", ge=2, le=5)
        redundant: float = param(0.35, "Share of cells whose every modality shows the class.", ge=0, le=1)
        unique: float = param(0.6, "Share of cells whose modalities each show a part of the code.", ge=0, le=1)
        synergy: float = param(0.05, "Share of cells whose class is only in nucleus plus granule.", ge=0, le=1)
        noise: float = param(0.3, "Camera noise; 0: none, 1: heavy.", ge=0, le=1)
        markers: int = param(
            0,
            "Numbers of a vector `markers` whose means depend on the class; 0: there is no such modality.",
            ge=0,
            le=64,
        )
        difficulty: float = param(0.3, "Variation, blur and wrong looks; 0: clean, 1: hard.", ge=0, le=1)

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`. Renders nothing."""
        p = self.params
        vectors = {"markers": p.markers} if p.markers else {}
        return Description(MODALITIES | vectors, CLASSES[: p.classes], p.cells, self._fingerprint(), p.image_size,
                           groups=True, group_count=min(p.donors, p.cells), licence="CC0-1.0",
                           incomplete=(), demonstration=True,
                           features={m: numbered(m, n) for m, n in vectors.items()})  # fmt: skip

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Renders at `params.image_size`, then resizes if another side is requested."""
        from wbcbench_plugins.datasets._leukocytes import render

        p = self.params
        drawn = draw(p)
        looks = {m: drawn.shown[:, i] for i, m in enumerate(MODALITIES)}
        images: dict[str, NDArray[Any]] = {}
        images |= render(looks, drawn.donors, p.image_size, p.seed, p.noise, p.difficulty, progress)
        notes = ["Rendered: no light was measured. Good for checking methods, not for ranking them."]
        if image_size is not None and image_size != p.image_size:
            images = {m: resize_stack(x, image_size) for m, x in images.items()}
            notes.append(f"Rendered at {p.image_size} px and resized to {image_size} px.")
        if p.markers:
            images["markers"] = draw_markers(p, drawn.labels)
        return Cells(
            images, drawn.labels, CLASSES[: p.classes], self._fingerprint(), groups=drawn.donors,
            licence="CC0-1.0", notes=notes,
        ).check()  # fmt: skip

    def _fingerprint(self) -> str:
        return content_digest(RENDERER_VERSION, sorted(self.public_params().items()))

    def public_params(self) -> dict[str, Any]:
        """See `Dataset.public_params`; without `markers: 0`, so that older identities stay."""
        params = super().public_params()
        return params if params["markers"] else {k: v for k, v in params.items() if k != "markers"}


@dataclass(frozen=True)
class Drawn:
    """Properties of N cells, decided before anything is rendered."""

    labels: NDArray[np.int64]
    """[N], as even as N allows."""
    donors: NDArray[np.int64]
    """[N], 0 .. donors - 1, as even as N allows."""
    kinds: NDArray[np.int64]
    """[N], index into `KINDS`."""
    shown: NDArray[np.int64]
    """[N, 3], the class whose look each modality shows, in the order of `MODALITIES`."""


def draw(p: Synthetic.Params) -> Drawn:
    """Draw labels, donors, kinds of evidence and looks; a pure function of the parameters."""
    rng = np.random.default_rng([p.seed, 0])
    n, k = p.cells, p.classes
    labels = rng.permutation(np.arange(n) % k)
    donors = rng.permutation(np.arange(n) % p.donors)
    kinds = rng.choice(len(KINDS), size=n, p=kind_shares(p))
    anything = rng.integers(0, k, (n, len(MODALITIES)))
    grouped = np.stack([_same_group(labels, GROUPS[m][:k], rng) for m in MODALITIES], axis=1)
    paired = anything.copy()
    paired[:, 2] = (labels - paired[:, 1]) % k
    everywhere = np.repeat(labels[:, None], len(MODALITIES), axis=1)
    shown = np.choose(kinds[:, None], [everywhere, grouped, paired, anything])
    wrong = rng.random(shown.shape) < wrong_look(p)
    shown = np.where(wrong, rng.integers(0, k, shown.shape), shown)
    return Drawn(labels.astype(np.int64), donors.astype(np.int64), kinds.astype(np.int64), shown)


def draw_markers(p: Synthetic.Params, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """[N, `markers`]: noise around a mean for each class, in units of each marker's own.

    One of twenty is missing, at random, but no cell lacks all.
    """
    rng = np.random.default_rng([p.seed, 1])
    shape = (len(labels), p.markers)
    means = rng.normal(size=(len(CLASSES), p.markers))[labels]
    units = 10.0 ** rng.uniform(0, 4, p.markers)
    numbers = (3 + means + (0.5 + p.difficulty) * rng.normal(size=shape)) * units
    missing = rng.random(shape) < 0.05
    missing[missing.all(1), 0] = False
    return np.where(missing, np.nan, numbers).astype(np.float32)


def kind_shares(p: Synthetic.Params) -> NDArray[np.float64]:
    """[4] probabilities in the order of `KINDS`; they add up to 1."""
    shares = np.array([p.redundant, p.unique, p.synergy], dtype=np.float64)
    shares = shares / max(1.0, float(shares.sum()))
    return np.append(shares, max(0.0, 1.0 - float(shares.sum())))


def wrong_look(p: Synthetic.Params) -> float:
    """Probability that an image shows a class drawn at random instead of what its kind prescribes."""
    return 0.06 * float(p.difficulty)


def _same_group(labels: NDArray[Any], groups: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """[N] a class drawn uniformly from those in the same group as each label."""
    members = [np.flatnonzero(np.equal(groups, g)) for g in groups]
    pick = rng.random(len(labels))
    sizes = np.array([len(m) for m in members])[labels]
    table = np.array([np.resize(m, len(groups)) for m in members])
    return np.asarray(table[labels, (pick * sizes).astype(np.int64)], dtype=np.int64)
