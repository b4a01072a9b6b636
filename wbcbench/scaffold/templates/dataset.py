"""my_method: state in one line what the cells are.

Start from here. The contract is `wbcbench.contracts.Dataset`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Cells, Dataset, Description, Progress, content_digest, resize_stack
from wbcbench.contracts.params import Parameters, param

CLASSES = ("lymphocyte", "monocyte", "neutrophil")
MODALITIES = {"brightfield": 3, "nucleus": 1}  # name -> channels, in the one order used everywhere


class MyMethod(Dataset):
    """Made-up cells: a disc whose size and brightness depend on the class. Replace `_read`."""

    name = "my_method"
    source = ""  # citation and licence of the data, shown by `wbcbench show`
    locations = ()  # parameters with paths, such as ("path",): not part of a trial's identity

    class Params(Parameters):
        # Set by `--set dataset.cells=600`. For files of your own: path: str = param("", "Folder of the images.")
        cells: int = param(300, "Cells to make.", ge=30)
        image_size: int = param(32, "Side in pixels.", ge=16, le=256)
        seed: int = param(0, "Seed of all random numbers.", ge=0)

    params: Params

    def describe(self) -> Description:
        # Called by `--dry-run`: quick, and without decoding an image.
        p = self.params
        return Description(
            MODALITIES, CLASSES, p.cells, self._fingerprint(), p.image_size, groups=True, licence="unknown"
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        images, labels, donors = self._read()
        if image_size not in (None, self.params.image_size):
            images = {m: resize_stack(x, image_size) for m, x in images.items()}
        # If this computes a modality from other images, override `preparation` too, for `wbcbench predict`.
        # `groups`: a donor is never on two sides of a split. `split`: the official split, if there is one.
        # `check` reports in plain words what is wrong with shapes or labels.
        return Cells(images, labels, CLASSES, self._fingerprint(), groups=donors, licence="unknown").check()

    def _fingerprint(self) -> str:
        # Must change whenever pixels, labels or groups may have changed: for files, digest their
        # bytes (or names and sizes).
        return content_digest(self.name, 1, sorted(self.params.model_dump().items()))

    def _read(self) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64], NDArray[np.int64]]:
        """Modality -> uint8 [N, C, S, S]; labels [N]; donors [N]."""
        # No torch in this file: it is imported while planning.
        p, rng = self.params, np.random.default_rng(self.params.seed)
        labels = rng.permutation(np.arange(p.cells) % len(CLASSES))
        donors = rng.permutation(np.arange(p.cells) % 10)
        y, x = np.mgrid[: p.image_size, : p.image_size] / p.image_size - 0.5
        inside = np.hypot(y, x)[None] < (0.15 + 0.1 * labels)[:, None, None]
        images = {}
        for m, channels in MODALITIES.items():
            noise = rng.normal(0, 20, (p.cells, channels, p.image_size, p.image_size))
            images[m] = (60 + 100 * inside[:, None] + noise).clip(0, 255).astype(np.uint8)
        return images, labels, donors
