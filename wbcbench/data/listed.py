"""The common part of data sets whose images are files, however these are found and labelled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from wbcbench.contracts.dataset import Cells, Description, Progress, content_digest
from wbcbench.contracts.params import Parameters
from wbcbench.data.cache import cached_arrays
from wbcbench.data.decode import DECODER_VERSION
from wbcbench.data.file_source import FileSource, open_source
from wbcbench.data.image_index import ImageIndex, decode_images, index_images
from wbcbench.data.labels import encode_groups, encode_labels, split_sizes
from wbcbench.data.manifest import Manifest
from wbcbench.data.problems import Problems
from wbcbench.data.resize import RESIZE_VERSION
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
P = TypeVar("P", bound=Parameters)


class ListedImages(ABC, Generic[P]):
    """Cells listed as paths of PNG, JPEG, TIFF or BMP files below a folder or in a zip.

    A data set describes and loads itself through a subclass, which says where the files lie and which cell has
    which. (No data set inherits from it: what a component declares must stand in its own file.)
    """

    version: ClassVar[str]
    """Part of the fingerprint: raised whenever the same files would give other cells."""
    licence: ClassVar[str] = "unknown"

    def __init__(self, params: P) -> None:
        self.params = params

    @abstractmethod
    def _root(self) -> Path:
        """The folder or zip that paths start from."""

    def _where(self) -> Path:
        """What messages name."""
        return self._root()

    @abstractmethod
    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        """The cells, in a fixed order; broken ones go to `problems`. Reads no pixels. Raises `DataError`."""

    def _classes(self) -> tuple[str, ...] | None:
        """Class names in order; None: the sorted distinct labels."""
        return None

    def _adapt(self, index: ImageIndex) -> ImageIndex:
        """What images are decoded to, where it is not what their headers say."""
        return index

    def _resolved(self, index: ImageIndex) -> dict[str, Any]:
        """See `Cells.resolved`."""
        return {}

    def _side(self, index: ImageIndex) -> int | None:
        """The native side in pixels, or None if there is none."""
        return index.side

    def _decode(
        self, manifest: Manifest, source: FileSource, index: ImageIndex, side: int, progress: Progress | None
    ) -> dict[str, Array]:
        """Modality -> [N, C, side, side]."""
        return decode_images(manifest, source, index, side, str(self._where()), progress)

    def _decoding(self, index: ImageIndex) -> tuple[object, ...]:
        """What, beside the files and the side, decoded arrays depend on."""
        return ("folder-arrays", DECODER_VERSION, RESIZE_VERSION, index)

    def _fingerprint(self, manifest: Manifest, index: ImageIndex) -> str:
        split = None if manifest.split is None else manifest.split.tolist()
        columns = (manifest.labels, manifest.groups, split, list(manifest.paths))
        return content_digest(self.version, DECODER_VERSION, columns, index.digest)

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        manifest, index = self._read(None)
        labels, classes = encode_labels(np.array(manifest.labels), self._classes(), str(self._where()))
        return Description(
            modalities=dict(index.channels),
            classes=classes,
            cells=len(labels),
            fingerprint=self._fingerprint(manifest, index),
            image_size=self._side(index),
            split_sizes=split_sizes(manifest.split),
            groups=manifest.groups is not None,
            group_count=None if manifest.groups is None else len(set(manifest.groups)),
            licence=self.licence,
            incomplete=tuple(m for m, paths in manifest.paths.items() if not all(paths)),
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped from the cache."""
        manifest, index = self._read(progress)
        where = str(self._where())
        side = image_size or self._side(index)
        if side is None:
            raise DataError(
                f"Expected images of one square size in {where}, but sides run from "
                f"{index.smallest} to {index.largest} pixels. Choose one with --image-size."
            )

        def decode() -> dict[str, Array]:
            with open_source(self._root()) as source:
                return self._decode(manifest, source, index, side, progress)

        images = cached_arrays(content_digest(*self._decoding(index), side), decode)
        labels, classes = encode_labels(np.array(manifest.labels), self._classes(), where)
        present = np.array([[bool(path) for path in paths] for paths in manifest.paths.values()]).T
        return Cells(
            images={name: images[name] for name in manifest.paths},
            labels=labels,
            classes=classes,
            fingerprint=self._fingerprint(manifest, index),
            groups=None if manifest.groups is None else encode_groups(np.array(manifest.groups), where),
            split=manifest.split,
            present=None if present.all() else np.ascontiguousarray(present),
            ids=tuple(manifest.ids),
            licence=self.licence,
            notes=manifest.notes + self._notes(manifest, index, side),
            resolved=self._resolved(index),
        ).check()

    def _read(self, progress: Progress | None) -> tuple[Manifest, ImageIndex]:
        root, where = self._root(), self._where()
        problems = Problems()
        with open_source(root) as source:
            manifest = self._list(source, problems)
            index = index_images(manifest, source, str(root.resolve()), problems, progress)
        problems.raise_if_any(str(where), f"Paths of images start from {root} (dataset.root).")
        if index is None:
            raise DataError(f"Expected images in {where}, but it names none. Add their paths.")
        return manifest, self._adapt(index)

    def _notes(self, manifest: Manifest, index: ImageIndex, side: int) -> list[str]:
        notes = []
        if index.oblong:
            notes.append(f"{index.oblong} images that are not square were cut to their middle square.")
        if index.side != side:
            sides = (
                f"{index.smallest}" if index.smallest == index.largest else f"{index.smallest}..{index.largest}"
            )
            notes.append(f"Images of {sides} pixels were resized to {side}.")
        for name, paths in manifest.paths.items():
            missing = sum(not path for path in paths)
            if missing:
                notes.append(f"{missing} cells have no {name} image.")
        return notes
