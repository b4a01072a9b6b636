"""Your own cells: a CSV manifest with one row per cell, and image files in a folder or a zip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wbcbench.contracts.dataset import (
    FOLD,
    Cells,
    Dataset,
    Description,
    Preparation,
    Progress,
    indicated,
    indicated_names,
    window_square,
    window_words,
    without_folds,
    without_indicators,
    without_order,
    without_window,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.csv_table import Columns, Manifest, ManifestFile
from wbcbench.data.folders import FileSource
from wbcbench.data.image_files import ImageIndex, ListedImages
from wbcbench.data.labels import ORDER, Problems
from wbcbench.data.official_folds import fold_columns
from wbcbench.errors import DataError


class Folder(Dataset):
    """PNG, JPEG, TIFF, BMP, WebP or JPEG 2000, 8 to 16 bit, of any size; an empty path is a missing image.

    Images are cut to their middle square and rescaled; with `window` they are cropped or padded, which keeps their
    scale. A modality with any colour image becomes 3 channels; other channels of a TIFF are read as they are,
    alpha is left out. One that mixes 8 and 16 bit is refused. A row whose split is not train, val or test is left
    out; all other invalid rows are reported at once. A modality may also be numbers: columns of the manifest, with
    empty fields where a number is missing.
    """

    name = "folder"
    source = "Your own image files, listed in a CSV manifest."
    locations = ("path", "root")

    class Params(Parameters):
        path: str = param("", "The manifest, or a folder with a manifest.csv.")
        root: str = param("", "Folder or .zip that image paths start from; empty: the manifest's folder.")
        modalities: dict[str, str | list[str]] = param(
            {},
            "Modality -> column of image paths, or a list of columns of numbers; empty: every column without "
            "another role (label, split ...) has image paths.",
        )
        indicators: bool = param(
            False, "Whether each column of numbers gets another one that is 1 where its number is missing, else 0."
        )
        label: str = param("label", "Column of class names.")
        group: str = param("group", "Column of donors or slides, if there is one.")
        split: str = param("split", "Column of train, val, test, if there is one.")
        fold: str = param(
            FOLD,
            "Column of the fold that tests a cell (-1: always trained on), or what columns of train, val, test "
            "start with: fold0, fold1 and so on; if there are any. Empty: none.",
        )
        id: str = param(
            "id", "Column of names of cells, if there is one; otherwise cells are named by their path."
        )
        leave_out: dict[str, list[str]] = param(
            {}, "Column -> values whose cells are left out, as in {duplicate: [drop, conflict]}."
        )
        classes_order: list[str | int] = param([], ORDER)
        window: int = param(
            0,
            "Side in pixels that images are cropped or padded to, unscaled; 0: their middle square, rescaled.",
            ge=0,
            le=1024,
        )

    params: Params

    def public_params(self) -> dict[str, Any]:
        """See `Dataset.public_params`; without what is as before it existed, so that identities stay."""
        return without_order(without_indicators(without_folds(without_window(super().public_params()))))

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        return _Files(self.params).describe()

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped. Raises `DataError`."""
        return _Files(self.params).load(image_size, progress)

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: columns as the training manifest has them."""
        window = self.params.window
        return Preparation(
            dict(modalities), window_words(window), window_square(window), names=self.public_params()
        )


class _Files(ListedImages[Folder.Params]):
    """The manifest's rows."""

    version = "folder-1"

    def _where(self) -> Path:
        if not self.params.path:
            raise DataError("Expected a manifest, but dataset.path is empty. Set it to a CSV file or its folder.")
        path = Path(self.params.path).expanduser()
        return path / "manifest.csv" if path.is_dir() else path

    def _window(self, index: ImageIndex) -> int:
        return self.params.window

    def _order(self) -> tuple[str, ...]:
        return tuple(map(str, self.params.classes_order))

    def _root(self) -> Path:
        return Path(self.params.root).expanduser() if self.params.root else self._where().parent

    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        file = ManifestFile(self._where())
        found = file.select(self._columns(file), self.params.leave_out, problems)
        if self.params.indicators:
            found.vectors.update({m: indicated(x) for m, x in found.vectors.items()})
            found.features.update({m: indicated_names(names) for m, names in found.features.items()})
        return found

    def _columns(self, file: ManifestFile) -> Columns:
        p = self.params
        optional: dict[str, str | None] = {}
        for what in ("group", "split", "id"):
            name = getattr(p, what)
            # A column with a default name is optional; one that the user chose must exist.
            absent = name not in file.header and name == type(p).model_fields[what].default
            optional[what] = None if not name or absent else name
        file.column(p.label, "label")
        given = {m: c for m, c in p.modalities.items() if isinstance(c, str)}
        numbers = {m: tuple(c) for m, c in p.modalities.items() if not isinstance(c, str)}
        for m, names in numbers.items():
            if not names or len(set(names)) < len(names):
                raise DataError(
                    f"Expected distinct columns of numbers for dataset.modalities.{m}, but got {names}."
                )
        if p.indicators and not numbers:
            raise DataError("dataset.indicators has no effect without a modality of numbers. Leave it out.")
        taken = [
            p.label,
            *optional.values(),
            *p.leave_out,
            *given.values(),
            *(c for cs in numbers.values() for c in cs),
        ]
        fold = fold_columns([name for name in file.header if p.fold != FOLD or name not in taken], p.fold)
        if p.fold not in ("", FOLD) and not fold:
            file.column(p.fold, "fold")
        taken += fold
        images = given if p.modalities else file.image_columns(taken)
        return Columns(label=p.label, modalities=images, fold=fold, vectors=numbers, **optional)
