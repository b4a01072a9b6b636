"""Splits: donors stay whole, the same spec gives the same split, hopeless sets are refused."""

import numpy as np
import pytest

from wbcbench.contracts.dataset import Cells
from wbcbench.data.splits import make_split
from wbcbench.errors import DataError
from wbcbench.spec.trial import SplitSpec


def test_groups_stay_whole_and_the_split_repeats() -> None:
    rng, groups = np.random.default_rng(0), np.arange(400) % 20
    images = {"a": rng.integers(0, 255, (400, 1, 8, 8), dtype=np.uint8)}
    cells = Cells(images, rng.integers(0, 3, 400), ("a", "b", "c"), "f", groups=groups)
    split = make_split(cells, SplitSpec())
    sides = [set(groups[i]) for i in (split.train, split.val, split.test)]
    assert sum(map(len, sides)) == 20
    assert split.hash == make_split(cells, SplitSpec()).hash


def test_one_cell_per_class_is_refused() -> None:
    cells = Cells({"a": np.zeros((3, 1, 8, 8), np.uint8)}, np.arange(3), ("a", "b", "c"), "f")
    with pytest.raises(DataError):
        make_split(cells, SplitSpec())
