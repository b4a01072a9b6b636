"""Raabin-WBC: stained leukocytes cropped from smears, with the authors' own training and test parts."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from wbcbench.contracts.dataset import Cells, Dataset, Description, Progress
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.csv_table import Manifest
from wbcbench.data.folders import FileSource, find_folder, list_images
from wbcbench.data.image_files import ListedImages
from wbcbench.data.labels import Problems
from wbcbench.errors import DataError

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
_PARTS = {"A": ("TestA",), "B": ("TestB",), "both": ("TestA", "TestB")}


class RaabinWbc(Dataset):
    """Cropped leukocytes of five kinds in the folders Train, TestA and TestB, each with one folder per class.

    Download the double-labelled cropped cells from the publisher's page (raabindata.com, "free data"), unpack
    `Train`, `TestA` and `TestB` into one folder and set `dataset.path` to it. Nothing is ever downloaded.

    Train and TestA were imaged alike; TestB with another microscope and camera, which makes it a test of how a
    method generalises (`test=B`). TestB need not hold every class: scores that average over classes are then over
    those present. Validation cells are drawn from Train. Images differ in size: set `--image-size`. Donors and
    slides are not given, so Train's validation cells share donors with its training cells.

    Verified: names of the three parts and of the classes, and that TestB lacks classes, from the published
    benchmark code of Tsutsui et al. (2023, arXiv 2303.01777); two microscopes and two cameras from the paper's
    abstract. Names of the parts are accepted in any case, with blank, hyphen or underscore (`Test-A`), those of
    the classes in singular or plural. Not known here: licence and digests of the files, which are not checked.
    """

    name = "raabin_wbc"
    source = "Mousavi Kouzehkanan et al., Scientific Reports 12:1123 (2022), DOI 10.1038/s41598-021-04426-x."
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "The folder (or a zip) with Train, TestA and TestB.")
        test: Literal["A", "B", "both"] = param("A", "Test cells: of the training microscope, of the other, both.")

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        return _Files(self.params).describe()

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped. Raises `DataError`."""
        return _Files(self.params).load(image_size, progress)


class _Files(ListedImages[RaabinWbc.Params]):
    """The parts' cells."""

    version = "raabin_wbc-1"
    licence: ClassVar[str] = "unknown; see raabindata.com"

    def _root(self) -> Path:
        if not self.params.path:
            raise DataError(
                "Expected the Raabin-WBC set, but dataset.path is empty. Download Train, TestA and TestB from "
                "raabindata.com (DOI 10.1038/s41598-021-04426-x) and set dataset.path to their folder."
            )
        return Path(self.params.path).expanduser()

    def _classes(self) -> tuple[str, ...]:
        return CLASSES

    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        images = list_images(source)
        every = images.names
        files: list[str] = []
        sides: list[str] = []
        for part in ("Train", *_PARTS[self.params.test]):
            folder = find_folder(every, part)
            if folder is None:
                raise DataError(
                    f"Expected the folder {part} in {self._root()}, but there is none. Unpack it there, or choose "
                    "another dataset.test."
                )
            inside = [name for name in every if name.startswith(f"{folder}/")]
            files += inside
            sides += ["train" if part == "Train" else "test"] * len(inside)
        labels = [self._label(name) for name in files]
        others = sorted(set(every) - set(files))
        return Manifest(
            lines=list(range(1, len(files) + 1)),
            labels=labels,
            paths={"brightfield": files},
            groups=None,
            split=np.array(sides, dtype="<U5"),
            ids=files,
            notes=["Donors are not known: Train's validation cells share donors with its training cells."],
            account=images.account(len(files), [(f"not in Train or Test{self.params.test}", n) for n in others]),
            found={"classes": frozenset(CLASSES)},
        )

    def _label(self, name: str) -> str:
        folder = PurePosixPath(name).parent.name
        label = folder.lower().strip().removesuffix("s")
        if label not in CLASSES:
            raise DataError(
                f"Expected folders of the classes {', '.join(CLASSES)} in {self._root()}, but {name} is in "
                f"{folder!r}. Remove it, or set dataset.path to the double-labelled cropped cells."
            )
        return label
