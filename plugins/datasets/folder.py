"""Your own cells: a CSV manifest with one row a cell, and image files in a folder or a zip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wbcbench.contracts.dataset import Cells, Dataset, Description, Progress, content_digest
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.cache import cached_arrays
from wbcbench.data.decode import DECODER_VERSION
from wbcbench.data.file_source import open_source
from wbcbench.data.image_index import ImageIndex, decode_images, index_images
from wbcbench.data.labels import encode_groups, encode_labels, split_sizes
from wbcbench.data.manifest import Columns, Manifest, ManifestFile
from wbcbench.data.problems import Problems
from wbcbench.data.resize import RESIZE_VERSION
from wbcbench.errors import DataError

_VERSION = "folder-1"


class Folder(Dataset):
    """PNG, JPEG, TIFF or BMP, 8 or 16 bit, of any size, centre-cropped; an empty path is a missing image.

    A modality with any colour image becomes 3 channels. One that mixes 8 and 16 bit is refused. A row whose
    split is none of train, val, test is left out; every other broken row is reported, all of them at once.
    """

    name = "folder"
    source = "Your own image files, listed in a CSV manifest."
    locations = ("path", "root")

    class Params(Parameters):
        path: str = param("", "The manifest, or a folder with a manifest.csv.")
        root: str = param("", "Folder or .zip that image paths start from; empty: the manifest's folder.")
        modalities: dict[str, str] = param(
            {}, "Modality -> column of image paths; empty: every column that is no label, group, split or id."
        )
        label: str = param("label", "Column of class names.")
        group: str = param("group", "Column of donors or slides, if there is one.")
        split: str = param("split", "Column of train, val, test, if there is one.")
        id: str = param("id", "Column of names of cells, if there is one; else they are called by their path.")
        leave_out: dict[str, list[str]] = param(
            {}, "Column -> values whose cells are left out, as in {duplicate: [drop, conflict]}."
        )

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        manifest, index = self._read(None)
        labels, classes = encode_labels(np.array(manifest.labels), None, self.params.path)
        return Description(
            modalities=dict(index.channels),
            classes=classes,
            cells=len(labels),
            fingerprint=self._fingerprint(manifest, index),
            image_size=index.side,
            split_sizes=split_sizes(manifest.split),
            groups=manifest.groups is not None,
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped from the cache."""
        manifest, index = self._read(progress)
        side = image_size or index.side
        if side is None:
            raise DataError(
                f"Expected images of one square size in {self.params.path}, but sides run from "
                f"{index.smallest} to {index.largest} pixels. Choose one with --image-size."
            )
        key = content_digest("folder-arrays", DECODER_VERSION, RESIZE_VERSION, index, side)

        def decode() -> dict[str, np.ndarray]:
            with open_source(self._root()) as source:
                return decode_images(manifest, source, index, side, str(self._path()), progress)

        images = cached_arrays(key, decode)
        labels, classes = encode_labels(np.array(manifest.labels), None, self.params.path)
        present = np.array([[bool(path) for path in paths] for paths in manifest.paths.values()]).T
        return Cells(
            images={name: images[name] for name in manifest.paths},
            labels=labels,
            classes=classes,
            fingerprint=self._fingerprint(manifest, index),
            groups=None if manifest.groups is None else encode_groups(np.array(manifest.groups), self.params.path),
            split=manifest.split,
            present=None if present.all() else np.ascontiguousarray(present),
            ids=tuple(manifest.ids),
            notes=manifest.notes + _notes(manifest, index, side),
        ).check()

    def _path(self) -> Path:
        path = Path(self.params.path).expanduser()
        return path / "manifest.csv" if self.params.path and path.is_dir() else path

    def _root(self) -> Path:
        return Path(self.params.root).expanduser() if self.params.root else self._path().parent

    def _read(self, progress: Progress | None) -> tuple[Manifest, ImageIndex]:
        if not self.params.path:
            raise DataError("Expected a manifest, but dataset.path is empty. Set it to a CSV file or its folder.")
        path, root = self._path(), self._root()
        file = ManifestFile(path)
        problems = Problems()
        manifest = file.select(self._columns(file), self.params.leave_out, problems)
        with open_source(root) as source:
            index = index_images(manifest, source, str(root.resolve()), problems, progress)
        problems.raise_if_any(str(path), f"Paths of images start from {root} (dataset.root).")
        if index is None:
            raise DataError(f"Expected images in {path}, but it names none. Add their paths.")
        return manifest, index

    def _columns(self, file: ManifestFile) -> Columns:
        p = self.params
        optional: dict[str, str | None] = {}
        for what in ("group", "split", "id"):
            name = getattr(p, what)
            # A default name need not be there; one that the user chose must.
            absent = name not in file.header and name == type(p).model_fields[what].default
            optional[what] = None if not name or absent else name
        file.column(p.label, "label")
        taken = [p.label, *optional.values(), *p.leave_out]
        return Columns(label=p.label, modalities=dict(p.modalities) or file.image_columns(taken), **optional)

    def _fingerprint(self, manifest: Manifest, index: ImageIndex) -> str:
        split = None if manifest.split is None else manifest.split.tolist()
        columns = (manifest.labels, manifest.groups, split, list(manifest.paths))
        return content_digest(_VERSION, DECODER_VERSION, columns, index.digest)


def _notes(manifest: Manifest, index: ImageIndex, side: int) -> list[str]:
    notes = []
    if index.oblong:
        notes.append(f"{index.oblong} images that are not square were cut to their middle square.")
    if index.side != side:
        sides = f"{index.smallest}" if index.smallest == index.largest else f"{index.smallest}..{index.largest}"
        notes.append(f"Images of {sides} pixels were resized to {side}.")
    for name, paths in manifest.paths.items():
        missing = sum(not path for path in paths)
        if missing:
            notes.append(f"{missing} cells have no {name} image.")
    return notes
