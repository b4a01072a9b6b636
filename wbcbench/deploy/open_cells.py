"""From a path to the cells to be classified, whatever lies there; derived modalities are made as in training."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.contracts import Dataset, Preparation
from wbcbench.data.reading import Described, described
from wbcbench.deploy.cell_files import manifest_cells, single_cell, tree_cells
from wbcbench.deploy.cells import (
    Array,
    Kind,
    NothingFoundError,
    Order,
    Source,
    Wanted,
    loaded_cells,
    npz_cells,
    refuse_if_all_broken,
)
from wbcbench.errors import DataError
from wbcbench.spec.load import merged, validate


class DerivedCells:
    """Cells of another source, seen as the network's modalities. See `Source`."""

    def __init__(self, raw: Source, given: Order, wanted: Order) -> None:
        """`raw` has the images of `given`; `wanted` are those of the network."""
        preparation: Preparation = wanted.preparation
        assert preparation.derive is not None
        self._raw, self._derive, self._wanted = raw, preparation.derive, wanted
        self.where, self.names, self.labels, self.errors = raw.where, raw.names, raw.labels, raw.errors
        columns = [[given.names.index(name) for name in preparation.parts(m)] for m in wanted.names]
        self.present = np.stack([raw.present[:, c].all(1) for c in columns], axis=1)
        self.notes = raw.notes
        self.notes.append(f"{', '.join(wanted.names)} were computed from {', '.join(given.names)}.")

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        made = self._derive(self._raw.read(start, stop))
        here = self.present[start:stop]
        return {
            m: np.where(here[:, i, None, None, None], self._checked(m, made[m], kind), 0).astype(kind.dtype)
            for i, (m, kind) in enumerate(self._wanted.kinds.items())
        }

    def _checked(self, modality: str, images: Array, kind: Kind) -> Array:
        if images.dtype != kind.dtype or images.shape[1] != kind.channels:
            raise DataError(
                f"Expected {modality} with {kind.channels} channels of {np.dtype(kind.dtype)}, as in training, "
                f"but from {self.where} it becomes {images.shape[1]} of {images.dtype}. Convert the images first."
            )
        return images


MANIFEST = "manifest.csv"
TABLES = (".csv", ".tsv", ".txt")


def open_cells(path: Path, wanted: Wanted, root: Path | None = None) -> Source:
    """Cells of a folder, a manifest (.csv), an .npz, a zip, one image file, or what a `dataset.yaml` speaks of.

    A network whose modalities are derived takes them ready, or the images that they are derived from.

    Args:
        root: where paths in a manifest start; None: its folder.

    Raises:
        DataError: nothing there, or nothing that the network could read.
    """
    if not path.exists():
        raise DataError(
            f"Expected a folder, a manifest (.csv), an .npz, a zip or an image, but {path} is not there."
        )
    read = _reader(path, wanted, root)
    reasons = []
    for order in wanted.orders:
        try:
            source: Source = read(order)
        except NothingFoundError as error:
            reasons.append(str(error))
            continue
        refuse_if_all_broken(source, order.names)
        if wanted.dataset is None:
            source.notes.append(
                "The data set of training is not installed here: images are cut to their middle square."
            )
        return source if order is wanted.orders[0] else DerivedCells(source, order, wanted.orders[0])
    raise DataError(
        f"Expected images of {wanted.spoken()} in {path}, but it has {reasons[-1]}. Name columns, folders or "
        "arrays after the images."
    )


def _reader(path: Path, wanted: Wanted, root: Path | None) -> Callable[[Order], Source]:
    """Reads what lies at `path`, once it is told which images to look for."""
    said, called = described(path), wanted.preparation.names
    if said is not None:
        return _described(said, wanted)
    if wanted.dataset is not None and wanted.dataset.reads(path):
        return _loaded(path, _like_training(wanted.dataset, {"path": str(path)}))
    if path.is_dir():
        manifest = path / MANIFEST
        if manifest.is_file():
            return lambda order: manifest_cells(manifest, order, called, root)
        return lambda order: tree_cells(path, order)
    if path.suffix.lower() == ".npz":
        return lambda order: npz_cells(path, order, called)
    if path.suffix.lower() in TABLES:
        return lambda order: manifest_cells(path, order, called, root)
    if zipfile.is_zipfile(path):
        return lambda order: tree_cells(path, order)
    return lambda order: single_cell(path, order)


def _described(said: Described, wanted: Wanted) -> Callable[[Order], Source]:
    """The files that a `dataset.yaml` names, read as files, so that a broken one costs its cell only; or whatever
    else its data set makes of them."""
    dataset = wanted.opener(said.name, said.params)
    params = dataset.params.model_dump(mode="json")
    path, root = (Path(str(params.get(what) or "")).expanduser() for what in ("path", "root"))
    if dataset.name == "folder":
        manifest = path / MANIFEST if path.is_dir() else path
        return lambda order: manifest_cells(manifest, order, params, root if params["root"] else None)
    if dataset.name == "npz":
        return lambda order: npz_cells(path, order, params)
    if wanted.dataset is not None and type(dataset) is type(wanted.dataset):
        dataset = _like_training(wanted.dataset, params)
    return _loaded(said.config, dataset)


def _like_training(trained: Dataset, params: dict[str, Any]) -> Dataset:
    """The data set with the places of `params` and all else as it was in training."""
    cls = type(trained)
    return cls(validate(cls.Params, merged(params, trained.public_params()), f"dataset {cls.name}"))


def _loaded(where: Path, dataset: Dataset) -> Callable[[Order], Source]:
    load = functools.cache(dataset.load)
    return lambda order: loaded_cells(str(where), load(order.side), order)


__all__ = ["TABLES", "DerivedCells", "open_cells"]
