"""The contract of data sets as tests: subclass `DatasetContract`, make the data set, run pytest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wbcbench.contracts import Dataset


class DatasetContract:
    """What every data set must hold. Override `dataset`; make it small, it is loaded a few times."""

    side: int = 24
    """A side in pixels, other than the native one, that the images are asked for at."""

    def dataset(self, tmp_path: Path) -> Dataset:
        """The data set under test; called once or twice per test, with the same folder."""
        raise AssertionError("Override `dataset` to return the data set under test.")

    def test_what_it_says_is_what_it_loads(self, tmp_path: Path) -> None:
        dataset = self.dataset(tmp_path)
        said = dataset.describe()
        cells = dataset.load(said.image_size or self.side).check()
        assert said.modalities == cells.modalities
        assert list(said.modalities) == list(cells.images), "modalities have one canonical order"
        assert said.classes == cells.classes
        assert said.cells == len(cells)
        assert said.fingerprint == cells.fingerprint
        assert said.pseudo_multimodal == cells.pseudo_multimodal
        assert said.groups == (cells.groups is not None)
        assert (said.split_sizes is None) == (cells.split is None)
        if said.split_sizes is not None and cells.split is not None:
            counts = dict(zip(*np.unique(cells.split, return_counts=True), strict=True))
            stated = {side: count for side, count in said.split_sizes.items() if count}
            assert stated == {str(k): int(v) for k, v in counts.items()}

    def test_loading_twice_gives_the_same(self, tmp_path: Path) -> None:
        first, second = (self.dataset(tmp_path).load(self.side) for _ in range(2))
        assert first.fingerprint == second.fingerprint
        assert all(np.array_equal(first.images[m], second.images[m]) for m in first.images)
        assert np.array_equal(first.labels, second.labels)

    def test_images_have_the_side_asked_for(self, tmp_path: Path) -> None:
        cells = self.dataset(tmp_path).load(self.side)
        assert {a.shape[2:] for a in cells.images.values()} == {(self.side, self.side)}

    def test_describing_is_repeatable_and_independent_of_loading(self, tmp_path: Path) -> None:
        dataset = self.dataset(tmp_path)
        before = dataset.describe()
        dataset.load(self.side)
        assert dataset.describe() == before == self.dataset(tmp_path).describe()

    def test_identity_shows_no_place(self, tmp_path: Path) -> None:
        dataset = self.dataset(tmp_path)
        public = dataset.public_params()
        assert not set(public) & set(dataset.locations)
        assert str(tmp_path) not in json.dumps(public), "a path is no part of what the cells are"
        assert str(tmp_path) not in dataset.describe().fingerprint

    def test_it_is_named_and_says_what_it_is(self, tmp_path: Path) -> None:
        cls = type(self.dataset(tmp_path))
        assert cls.name
        assert cls.__doc__
