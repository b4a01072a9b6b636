"""MedMNIST's two-dimensional sets, BloodMNIST first, in all four sizes, from the files as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from wbcbench_plugins.datasets import _medmnist
from wbcbench_plugins.datasets.npz import Npz

from wbcbench.contracts.dataset import Cells, Dataset, Description, Preparation, Progress, content_digest
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.cache import check_md5
from wbcbench.errors import DataError

_VERSION = "medmnist-1"

SetName = Literal[
    "bloodmnist", "pathmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist", "breastmnist",
    "tissuemnist", "organamnist", "organcmnist", "organsmnist",
]  # fmt: skip


class MedMnistSet(Dataset):
    """BloodMNIST or another of MedMNIST's 2-D sets with one label per image, at 28, 64, 128 or 224 pixels.

    Download `bloodmnist.npz` (28 px) or `bloodmnist_64.npz`, `_128`, `_224` (MedMNIST+) from the authors'
    deposit, DOI 10.5281/zenodo.10519652, and set `dataset.path` to the file or its folder. Nothing is ever
    downloaded. The official split is used; its authors made it image by image: BloodMNIST's donors are not
    known, so one donor's cells may be in train, val and test.

    BloodMNIST is the PBC set (see `pbc`), centre-cropped and resized by its authors, and PBC holds a few byte-
    identical images, some under two labels. If the crops still coincide, `run` refuses the split;
    `split.allow_leaks=true` trains nevertheless, and the comparison key records it.

    Verified: file names, MD5 digests, classes, licences and sizes from the authors' package, version 3.0.2. Not
    offered: ChestMNIST (several labels per image) and the 3-D sets. One modality, `image`; `stains` makes
    pseudo-modalities of it.
    """

    name = "medmnist"
    aliases = ("bloodmnist",)
    source = "Yang et al., MedMNIST v2, Scientific Data 10:41 (2023); deposit DOI 10.5281/zenodo.10519652."
    locations = ("path", "check_digest")

    class Params(Parameters):
        path: str = param("", "The .npz file as published, or its folder.")
        set: SetName = param("bloodmnist", "Which of the sets.")
        size: Literal[28, 64, 128, 224] = param(28, "Side in pixels: which of the set's files.")
        check_digest: bool = param(True, "Refuse a file whose MD5 is not the published one.")

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`. Raises `DataError` for a file that is absent, altered or of another size."""
        base = self._checked().describe()
        if base.image_size != self.params.size:
            raise DataError(
                f"Expected {self.params.size} px images in {self._file()}, but they are {base.image_size} px. "
                f"Set dataset.size={base.image_size}."
            )
        published = self._published()
        self._codes(base.classes)
        return replace(
            base,
            classes=published.classes,
            fingerprint=self._fingerprint(base.fingerprint),
            licence=published.licence,
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Raises `DataError`."""
        base = self._checked().load(image_size, progress)
        published = self._published()
        return replace(
            base,
            labels=self._codes(base.classes)[base.labels],
            classes=published.classes,
            fingerprint=self._fingerprint(base.fingerprint),
            licence=published.licence,
        ).check()

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: the published labels are numbers of the classes."""
        return Preparation(dict(modalities), numbered=True)

    def _file(self) -> Path:
        p = self.params
        name = f"{p.set}.npz" if p.size == 28 else f"{p.set}_{p.size}.npz"
        path = Path(p.path).expanduser()
        path = path / name if p.path and path.is_dir() else path
        if not p.path or not path.is_file():
            raise DataError(
                f"Expected {name} at {str(path) if p.path else 'dataset.path'!r}, but it is not there. Download "
                f"it from the authors' deposit (DOI 10.5281/zenodo.10519652) and set dataset.path to it."
            )
        return path

    def _checked(self) -> Dataset:
        """The file as the data set `npz` reads it, after its digest was checked."""
        path = self._file()
        if self.params.check_digest:
            check_md5(
                path, self._published().md5[self.params.size], "MedMNIST's authors",
                "Check dataset.set and dataset.size; dataset.check_digest=false accepts the file as it is.",
            )  # fmt: skip
        return Npz(Npz.Params(path=str(path)))

    def _published(self) -> _medmnist.Published:
        return _medmnist.SETS[self.params.set]

    def _codes(self, classes: tuple[str, ...]) -> np.ndarray:
        """The published label of each code, since `npz` numbers only labels that occur."""
        known = len(self._published().classes)
        if not all(name.isdigit() and int(name) < known for name in classes):
            raise DataError(
                f"Expected labels 0..{known - 1} of {self.params.set} in {self._file()}, but got "
                f"{', '.join(classes)}. Set dataset.set to the set that this file is."
            )
        return np.array([int(name) for name in classes], dtype=np.int64)

    def _fingerprint(self, base: str) -> str:
        return content_digest(_VERSION, self.params.set, base)
