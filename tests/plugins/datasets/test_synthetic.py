"""Synthetic cells: the contract, and that evidence is split across modalities as the dials say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from wbcbench_plugins.datasets.synthetic import MODALITIES, Synthetic, draw, kind_shares, wrong_look

from wbcbench.data.splits import make_split
from wbcbench.spec import SplitSpec
from wbcbench.testing import DatasetContract


def params(**kwargs: Any) -> Synthetic.Params:
    return Synthetic.Params(**{"cells": 4000, "difficulty": 0, **kwargs})


def information(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mutual information in bits of two integer arrays [N]."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


class TestContract(DatasetContract):
    def dataset(self, tmp_path: Path) -> Synthetic:
        return Synthetic(Synthetic.Params(cells=40, image_size=32))


def test_pure_xor_shows_nothing_in_one_modality_and_everything_in_two() -> None:
    drawn = draw(params(redundant=0, unique=0, synergy=1, classes=2))
    bright, nucleus, granule = drawn.shown.T
    for one in (bright, nucleus, granule):
        assert information(one, drawn.labels) < 0.005
    for pair in (bright * 2 + nucleus, bright * 2 + granule):
        assert information(pair, drawn.labels) < 0.005
    assert np.array_equal((nucleus + granule) % 2, drawn.labels)


def test_redundant_evidence_is_whole_in_every_modality() -> None:
    drawn = draw(params(redundant=1, unique=0, synergy=0))
    assert (drawn.shown == drawn.labels[:, None]).all()


def test_unique_evidence_needs_all_modalities() -> None:
    drawn = draw(params(redundant=0, unique=1, synergy=0))
    single = [information(drawn.shown[:, i], drawn.labels) for i in range(3)]
    together = information(drawn.shown @ np.array([1, 5, 25]), drawn.labels)
    assert max(single) < 1.05
    assert together > np.log2(5) - 0.05


def test_default_evidence_is_split_so_that_fusion_can_gain() -> None:
    drawn = draw(Synthetic.Params(cells=20000))
    single = [information(drawn.shown[:, i], drawn.labels) for i in range(3)]
    together = information(drawn.shown @ np.array([1, 5, 25]), drawn.labels)
    assert together > max(single) + 0.6


def test_shares_never_exceed_one() -> None:
    assert kind_shares(params(redundant=1, unique=1, synergy=0)).tolist() == [0.5, 0.5, 0, 0]
    assert kind_shares(params(redundant=0.2, unique=0.1, synergy=0)) == pytest.approx([0.2, 0.1, 0, 0.7])
    assert wrong_look(params()) == 0
    assert wrong_look(params(difficulty=1)) > 0


def test_what_a_modality_shows_can_be_seen_in_its_pixels() -> None:
    """A neutrophil's nucleus falls into more lobes, and it has more granules, than a lymphocyte."""
    from skimage.measure import label

    cells = Synthetic(
        Synthetic.Params(cells=60, classes=2, redundant=1, unique=0, synergy=0, noise=0, difficulty=0)
    ).load()
    assert set(cells.images) == set(MODALITIES)
    for modality, least in (("nucleus", 0.3), ("granule", 5)):
        images = cells.images[modality][:, 0]
        pieces = np.array([label(x > 0.6 * x.max()).max() for x in images])
        assert pieces[cells.labels == 0].mean() > pieces[cells.labels == 1].mean() + least, modality


def test_donors_are_groups_and_never_on_two_sides() -> None:
    cells = Synthetic(Synthetic.Params(cells=200, image_size=16)).load()
    assert cells.groups is not None
    split = make_split(cells, SplitSpec())
    sides = [set(cells.groups[i]) for i in (split.train, split.val, split.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_the_seed_decides() -> None:
    a, b, c = (Synthetic(Synthetic.Params(cells=12, image_size=16, seed=s)).load() for s in (0, 0, 1))
    assert np.array_equal(a.images["brightfield"], b.images["brightfield"])
    assert not np.array_equal(a.images["brightfield"], c.images["brightfield"])
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_unknown_and_impossible_parameters_are_refused() -> None:
    for bad in ({"cels": 3}, {"redundant": 2}, {"classes": 6}, {"image_size": 4}):
        with pytest.raises(ValidationError):
            Synthetic.Params(**bad)
