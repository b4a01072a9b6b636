"""The contract of data sets as tests: subclass `DatasetContract`, name the data set, run pytest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wbcbench.contracts import Dataset
from wbcbench.data.official_folds import fold_sizes
from wbcbench.errors import DataError
from wbcbench.testing.components import component_class, dataset_types
from wbcbench.testing.promise import BrokenPromise, made, promise


class DatasetContract:
    """What every data set must satisfy. Set `component`, or override `dataset`; use a small one."""

    component: ClassVar[Any] = None
    """A registered name, a class, or the path of a plugin file."""
    params: ClassVar[dict[str, Any]] = {}
    """Parameters to test with: paths, few cells."""
    side: int = 24
    """A side in pixels, other than the native one, at which images are requested."""

    def dataset(self, tmp_path: Path) -> Dataset:
        """The data set under test; called once or twice per test, with the same folder."""
        if self.component is None:
            raise AssertionError("Set `component`, or override `dataset` to return the data set under test.")
        cls = component_class("dataset", self.component)
        return made(cls, "params", cls.Params(**self.params))  # type: ignore[no-any-return]

    def test_types(self, tmp_path: Path) -> None:
        """Its methods return what they should: `describe` a Description, `load` a Cells of arrays."""
        dataset_types(self.dataset(tmp_path), self.side)

    def test_what_it_says_is_what_it_loads(self, tmp_path: Path) -> None:
        """Images, labels and splits have the promised form, and `describe` agrees with them."""
        dataset = self.dataset(tmp_path)
        said = dataset.describe()
        cells = dataset.load(said.image_size or self.side)
        try:
            cells.check()
        except DataError as error:
            raise BrokenPromise(str(error), "See wbcbench.contracts.Cells for every shape.", "load") from error
        counts = None
        if cells.split is not None:
            names, numbers = np.unique(cells.split, return_counts=True)
            counts = {str(k): int(v) for k, v in zip(names, numbers, strict=True)}
        stated = None if said.split_sizes is None else {k: n for k, n in said.split_sizes.items() if n}
        pairs = {
            "modalities": (list(said.modalities.items()), list(cells.modalities.items())),
            "classes": (said.classes, cells.classes),
            "cells": (said.cells, len(cells)),
            "fingerprint": (said.fingerprint, cells.fingerprint),
            "pseudo_multimodal": (said.pseudo_multimodal, cells.pseudo_multimodal),
            "groups": (said.groups, cells.groups is not None),
            "split_sizes": (stated, counts),
            "fold_sizes": (said.fold_sizes, fold_sizes(cells.folds)),
            "group_count": (
                said.group_count,
                None if said.group_count is None or cells.groups is None else len(np.unique(cells.groups)),
            ),
        }
        if said.incomplete is not None:
            pairs["incomplete"] = (said.incomplete, cells.incomplete)
        for name, (foretold, loaded) in pairs.items():
            promise(
                foretold == loaded,
                f"`describe` reports {name} = {foretold}, `load` gives {loaded}.",
                "Compute both from one place; modalities have one order.",
                "describe",
            )

    def test_loading_twice_gives_the_same(self, tmp_path: Path) -> None:
        """Loading twice gives the same pixels, labels and fingerprint."""
        first, second = (self.dataset(tmp_path).load(self.side) for _ in range(2))
        promise(
            first.fingerprint == second.fingerprint
            and all(np.array_equal(first.images[m], second.images[m]) for m in first.images)
            and np.array_equal(first.labels, second.labels),
            "Two loads of the same data set differ.",
            "Sort what a folder lists, seed random numbers by a parameter, leave out times and addresses.",
            "load",
        )

    def test_images_have_the_side_asked_for(self, tmp_path: Path) -> None:
        """Images have the requested side."""
        cells = self.dataset(tmp_path).load(self.side)
        sides = {a.shape[2:] for m, a in cells.images.items() if m not in cells.vectors}
        promise(
            sides <= {(self.side, self.side)},
            f"With image_size={self.side}, `load` gave sides {sorted(sides)}.",
            "Resize to `image_size` if it is given: wbcbench.contracts.dataset.resize_stack.",
            "load",
        )

    def test_describing_is_repeatable_and_independent_of_loading(self, tmp_path: Path) -> None:
        """`describe` always returns the same, before and after loading."""
        dataset = self.dataset(tmp_path)
        before = dataset.describe()
        dataset.load(self.side)
        promise(
            dataset.describe() == before == self.dataset(tmp_path).describe(),
            "`describe` returns something else after `load`, or in a new instance.",
            "Let it depend on parameters and files alone.",
            "describe",
        )

    def test_new_cells_are_prepared_into_its_modalities(self, tmp_path: Path) -> None:
        """`preparation` gives the modalities that `load` gives: same names, channels and depth."""
        dataset = self.dataset(tmp_path)
        cells = dataset.load(self.side)
        known = type(dataset)(dataset.Params(**{**dataset.params.model_dump(), **cells.resolved}))
        told = known.preparation(cells.modalities)
        depth = {8: np.uint8, 16: np.uint16}
        raw = {
            name: np.zeros(
                (2, told.raw[name], self.side, self.side), depth[told.bits[0]] if told.bits else x.dtype
            )
            for m, x in cells.images.items()
            if m not in cells.vectors
            for name in told.parts(m)
        }
        made = told.derive(raw) if told.derive else raw
        wanted = {m: (x.shape[1:], x.dtype) for m, x in cells.images.items() if m not in cells.vectors}
        got = {m: (x.shape[1:], x.dtype) for m, x in made.items() if m in wanted}
        promise(
            got == wanted and all(len(x) == 2 for x in made.values()),
            f"`preparation` turns new cells into {got}, `load` gives {wanted}.",
            "Let both use one function; declare in `made_of` which raw images a modality is derived from.",
            "preparation",
        )
        image = np.zeros((1, self.side + 3, self.side + 1), np.uint8)
        promise(
            told.square(image, self.side).shape == (1, self.side, self.side),
            "`preparation().square` does not give a square of the requested side.",
            "It takes [C, H, W] and a side, and returns [C, side, side].",
            "preparation",
        )

    def test_identity_shows_no_place(self, tmp_path: Path) -> None:
        """The identity does not depend on where files are: no path in parameters or fingerprint."""
        dataset = self.dataset(tmp_path)
        public = dataset.public_params()
        places = [str(tmp_path), *(str(getattr(dataset.params, name)) for name in dataset.locations)]
        places = [place for place in places if "/" in place or "\\" in place]
        shown = json.dumps(public) + dataset.describe().fingerprint
        promise(
            not set(public) & set(dataset.locations) and not any(place in shown for place in places),
            f"The identity {public} or the fingerprint contains the path of files.",
            "List parameters that hold paths in `locations`, and compute the fingerprint from contents.",
            "public_params",
        )

    def test_it_is_named_and_says_what_it_is(self, tmp_path: Path) -> None:
        """It has a name and a docstring."""
        cls = type(self.dataset(tmp_path))
        promise(cls.name and cls.__doc__, "The class has no name or no docstring.", "State what the cells are.")
