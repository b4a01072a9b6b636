"""Splits: donors stay whole, the same spec gives the same split, hopeless sets are refused."""

from typing import Any

import numpy as np
import pytest

from wbcbench.contracts.dataset import Cells
from wbcbench.data.splits import Leaks, Split, check_group_count, make_split, resolved
from wbcbench.errors import DataError, ExitCode, LeakError
from wbcbench.scheduling.ray_worker import EndMessage, kind_of_error, pack, unpack
from wbcbench.spec.trial import SplitSpec, digest

CLASSES = ("a", "b", "c")


def make(n: int = 400, seed: int = 0, **more: Any) -> Cells:
    rng = np.random.default_rng(seed)
    images = {
        "bf": rng.integers(0, 255, (n, 1, 8, 8), np.uint8),
        "fl": rng.integers(0, 255, (n, 1, 8, 8), np.uint8),
    }
    return Cells(**{"images": images, "labels": rng.choice(3, n, p=[0.6, 0.3, 0.1]), "classes": CLASSES,
                    "fingerprint": "f", **more})  # fmt: skip


def spec_for(cells: Cells, **fields: Any) -> SplitSpec:
    """As a plan would record it."""
    sizes = None if cells.split is None else {s: int((cells.split == s).sum()) for s in ("train", "val", "test")}
    return resolved(SplitSpec(**fields), cells.groups is not None, sizes)


def sides(split: Split) -> list[np.ndarray]:
    return [split.train, split.val, split.test]


def official(n: int, **counts: int) -> np.ndarray:
    side = np.repeat(list(counts), list(counts.values()))
    assert len(side) == n
    return side


def test_shares_and_class_proportions() -> None:
    cells = make(1000)
    split = make_split(cells, SplitSpec(val=0.1, test=0.3))
    assert [len(s) for s in sides(split)] == [600, 100, 300]
    np.testing.assert_array_equal(np.sort(np.concatenate(sides(split))), np.arange(1000))
    whole = np.bincount(cells.labels) / 1000
    for side in sides(split):
        np.testing.assert_array_equal(side, np.sort(side))
        np.testing.assert_allclose(np.bincount(cells.labels[side]) / len(side), whole, atol=0.011)
    assert split.scheme == "stratified"


def test_groups_stay_whole_and_shares_are_near() -> None:
    groups = np.random.default_rng(1).permutation(np.arange(2000) % 40)
    cells = make(2000, groups=groups)
    split = make_split(cells, spec_for(cells))
    held = [set(groups[s]) for s in sides(split)]
    assert sum(map(len, held)) == 40
    assert len(split.test) / 2000 == pytest.approx(0.25, abs=0.05)
    assert len(split.val) / 2000 == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_seed_gives_its_split_and_another_seed_another(grouped: bool) -> None:
    cells = make(groups=np.arange(400) % 20 if grouped else None)
    first, again, other = (make_split(cells, spec_for(cells, seed=s)) for s in (0, 0, 1))
    assert first.hash == again.hash != other.hash
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_the_hash_follows_the_data() -> None:
    cells = make()
    hashes = {make_split(cells, SplitSpec()).hash, make_split(make(fingerprint="g"), SplitSpec()).hash}
    side = official(400, train=200, val=100, test=100)
    hashes |= {
        make_split(make(split=side), SplitSpec()).hash,
        make_split(make(split=side[::-1]), SplitSpec()).hash,
    }
    assert len(hashes) == 4


def test_the_official_split_is_kept() -> None:
    side = np.random.default_rng(0).permutation(official(400, train=250, val=50, test=100))
    split = make_split(make(split=side), SplitSpec(val=0.5, seed=7))
    assert split.scheme == "official"
    for name, index in zip(("train", "val", "test"), sides(split), strict=True):
        np.testing.assert_array_equal(index, np.flatnonzero(side == name))


def test_stratified_sets_the_official_split_aside() -> None:
    cells = make(split=official(400, train=250, val=50, test=100))
    assert make_split(cells, SplitSpec(scheme="stratified")).hash != make_split(cells, SplitSpec()).hash
    assert make_split(cells, SplitSpec(scheme="stratified")).scheme == "stratified"


@pytest.mark.parametrize("grouped", [False, True])
def test_missing_validation_cells_come_from_training_only(grouped: bool) -> None:
    side = official(400, train=300, test=100)
    groups = np.arange(400) // 10 if grouped else None
    cells = make(split=side, groups=groups)
    split = make_split(cells, spec_for(cells, val=0.2))
    np.testing.assert_array_equal(split.test, np.arange(300, 400))
    assert len(split.val) == pytest.approx(60, abs=20 if grouped else 0)
    assert split.val.max() < 300
    if groups is not None:
        assert not set(groups[split.val]) & set(groups[split.train])


def test_an_official_split_that_tears_a_donor_is_refused() -> None:
    side = official(400, train=200, val=100, test=100)
    with pytest.raises(DataError, match=r"3 of 40 stand on two.*split\.scheme=stratified"):
        make_split(make(split=side, groups=(np.arange(400) + 5) // 10 % 40), SplitSpec())
    assert make_split(make(split=side, groups=np.arange(400) // 10), SplitSpec()).scheme == "official"


ALLOWED = SplitSpec(allow_leaks=True)


def test_copies_are_cells_with_their_images_on_another_side() -> None:
    cells = make(split=official(400, train=200, val=100, test=100), ids=tuple(f"id{i}" for i in range(400)),
                 labels=np.arange(400) // 6 % 3)  # fmt: skip
    assert not make_split(cells, SplitSpec()).leaks
    for array in cells.images.values():
        array[1] = array[0]  # both in training, with one label: harmless
        array[[250, 350]] = array[2]  # one image on all three sides
        array[[360, 361]] = array[3]  # training, and twice in the test
    cells.images["bf"][370] = cells.images["bf"][4]  # one modality only: another cell
    cells.labels[[250, 350]], cells.labels[[360, 361]] = cells.labels[2], cells.labels[3]
    split = make_split(cells, ALLOWED)
    assert split.leaks.across == ((2, 250, 350), (3, 360, 361))
    assert not split.leaks.conflicts
    with pytest.raises(
        LeakError, match=r"6 cells have.*id2 = id250, id3 = id360\).*split\.allow_leaks=true"
    ) as caught:
        make_split(cells, SplitSpec())
    assert caught.value.exit_code == ExitCode.NOT_COMPARABLE
    for i in range(10, 20):
        for array in cells.images.values():
            array[300 + i] = array[i]
    with pytest.raises(LeakError, match=r"26 cells have.* and 7 more"):
        make_split(cells, SplitSpec())


def test_one_image_with_two_labels_is_refused_on_whatever_side() -> None:
    cells = make(split=official(400, train=200, val=100, test=100), labels=np.arange(400) % 3)
    for array in cells.images.values():
        array[7] = array[6]
    with pytest.raises(LeakError, match=r"1 images carry two or more \(row 6 = row 7\)"):
        make_split(cells, SplitSpec())
    assert make_split(cells, ALLOWED).leaks.conflicts == ((6, 7),)


def test_a_split_that_allows_no_leaks_is_identified_as_it_always_was() -> None:
    assert SplitSpec().model_dump() == {"scheme": "official", "val": 0.15, "test": 0.25, "seed": 0}
    assert SplitSpec.model_validate(ALLOWED.model_dump()) == ALLOWED != SplitSpec()
    assert digest(ALLOWED) != digest(SplitSpec())


def test_a_leak_found_by_a_worker_ends_with_the_same_exit_code() -> None:
    with pytest.raises(LeakError) as caught:
        Leaks(torn=(1,), groups=3).refuse()
    message = EndMessage("refused", str(caught.value), kind_of_error(caught.value))
    (packed,) = pack(message).values()
    found = unpack({"wbcbench": packed})
    assert isinstance(found, EndMessage)
    exception = found.exception()
    assert isinstance(exception, LeakError)
    assert exception.exit_code == ExitCode.NOT_COMPARABLE


def test_what_is_allowed_leaves_the_division_and_its_hash_alone() -> None:
    cells = make()
    assert make_split(cells, ALLOWED).hash == make_split(cells, SplitSpec()).hash
    torn = make(split=official(400, train=200, val=100, test=100), groups=np.arange(400) // 20)
    assert make_split(torn, SplitSpec()).scheme == "official"
    torn.groups = (np.arange(400) + 5) // 10 % 40
    assert make_split(torn, ALLOWED).leaks.torn == (0, 20, 30)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (make(3, labels=np.arange(3)), "2 cells of every class .* as test, but a, b, c has 1"),
        (make(9, labels=np.arange(9) % 3, split=official(9, train=6, test=3)), "3 cells, one of each class"),
        (make(40, split=official(40, train=30, val=10)), "test got none"),
        (make(40, split=official(40, val=20, test=20)), "train got none"),
        (make(40, groups=np.arange(40) % 2), "at least 3 groups"),
        (make(40, labels=np.repeat([0, 1, 2], [18, 2, 20]), split=official(40, test=20, train=10, val=10)),
         "a, b has none"),
        (make(40, labels=np.repeat([0, 1], 20), groups=np.repeat(np.arange(8), 5)), "c has none"),
    ],
)  # fmt: skip
def test_hopeless_sets_are_refused(cells: Cells, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make_split(cells, spec_for(cells))


@pytest.mark.parametrize(("donors", "fewest"), [(3, 3), (6, 10), (8, 12), (12, 20), (30, 29)])
def test_seeds_draw_different_donors(donors: int, fewest: int) -> None:
    """With scikit-learn's group shuffle all 30 seeds had one test side for 6, 8 and 12 donors."""
    cells = make(1200, groups=np.arange(1200) % donors)
    drawn, shares = set(), []
    for seed in range(30):
        split = make_split(cells, spec_for(cells, scheme="stratified", seed=seed))
        drawn.add(frozenset(cells.groups[split.test]))  # type: ignore[index]
        shares.append(len(split.test) / 1200)
        held = [set(cells.groups[s]) for s in sides(split)]  # type: ignore[index]
        assert sum(map(len, held)) == donors
    assert len(drawn) >= fewest
    # half a donor, beside what the balance of classes may cost
    assert np.abs(np.array(shares) - 0.25).max() <= 0.5 / donors + 0.09


def test_draws_are_uniform_over_equal_donors() -> None:
    """Every donor is tested about equally often, so no seed has a favourite."""
    cells = make(600, labels=np.arange(600) // 2 % 3, groups=np.arange(600) // 6 % 10)
    often = np.zeros(10)
    for seed in range(200):
        split = make_split(cells, spec_for(cells, scheme="stratified", seed=seed))
        often[np.unique(cells.groups[split.test])] += 1  # type: ignore[index]
    expected = often.sum() / 10
    assert ((often - expected) ** 2 / expected).sum() < 21.7  # chi2, 9 degrees of freedom, p = .01


def test_a_rare_class_is_never_tested_away() -> None:
    """Class c is of one donor only: it must stay on the training side."""
    groups = np.arange(300) % 6
    labels = np.where(groups == 2, 2, np.arange(300) // 6 % 2)
    cells = make(300, labels=labels, groups=groups)
    for seed in range(20):
        split = make_split(cells, spec_for(cells, scheme="stratified", seed=seed))
        assert 2 in groups[split.train]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    "fields",
    [{"scheme": "kfold", "folds": 4}, {"scheme": "leave_one_group_out"}, {"scheme": "repeated", "folds": 4}],
)
def test_folds(grouped: bool, fields: dict[str, Any]) -> None:
    cells = make(480, groups=np.arange(480) // 5 % 8 if grouped else None)
    spec = spec_for(cells, **fields)
    if spec.scheme == "leave_one_group_out" and not grouped:
        with pytest.raises(DataError, match=r"dataset.group="):
            make_split(cells, spec, 0)
        return
    count = spec.folds or 8
    splits = [make_split(cells, spec, f) for f in range(count)]
    assert len({s.family for s in splits}) == 1
    assert len({s.hash for s in splits}) == count
    tested = np.concatenate([s.test for s in splits])
    if spec.scheme != "repeated":
        np.testing.assert_array_equal(np.sort(tested), np.arange(480))
    whole = np.bincount(cells.labels) / 480
    for split in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate(sides(split))), np.arange(480))
        assert len(split.val) / 480 == pytest.approx(0.15, abs=0.07 if grouped else 0.01)
        if grouped:
            held = [set(cells.groups[s]) for s in sides(split)]  # type: ignore[index]
            assert sum(map(len, held)) == 8
        elif spec.scheme == "kfold":
            np.testing.assert_allclose(np.bincount(cells.labels[split.test]) / len(split.test), whole, atol=0.02)
    with pytest.raises(DataError, match=f"0 to {count - 1}"):
        make_split(cells, spec, count)
    again = make_split(cells, spec, 1)
    assert again.hash == splits[1].hash
    assert len({make_split(cells, spec.model_copy(update={"seed": s}), 1).hash for s in range(6)}) > 1


def test_more_divisions_than_there_are_is_refused_with_their_number() -> None:
    cells = make(300, labels=np.arange(300) // 3 % 3, groups=np.arange(300) % 3)
    spec = spec_for(cells, scheme="repeated", folds=5)
    assert len({make_split(cells, spec, f).hash for f in range(3)}) == 3
    with pytest.raises(DataError, match=r"only 3 are balanced. Set split.folds=3"):
        make_split(cells, spec, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"folds": 3}, "folds needs scheme kfold or repeated"),
        ({"scheme": "kfold", "test": 0.3}, "test has no effect"),
        ({"scheme": "leave_one_group_out", "unit": "cell"}, "keeps groups whole"),
        ({"scheme": ["kfold"]}, "scheme"),
    ],
)
def test_settings_without_effect_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SplitSpec(**fields)


def test_identities_of_before_are_kept_and_folds_have_their_defaults() -> None:
    assert SplitSpec().model_dump() == {"scheme": "official", "val": 0.15, "test": 0.25, "seed": 0}
    assert SplitSpec(scheme="kfold").model_dump() == {"scheme": "kfold", "val": 0.15, "seed": 0, "folds": 5}
    assert SplitSpec.model_validate(SplitSpec(scheme="kfold").model_dump()) == SplitSpec(scheme="kfold", folds=5)
    assert SplitSpec(scheme="repeated").folds == 10


def test_unit_is_recorded_only_where_groups_are_drawn() -> None:
    sizes = {"train": 3, "val": 1, "test": 1}
    assert resolved(SplitSpec(), True, None).unit == "group"
    assert resolved(SplitSpec(), True, sizes).unit is None
    assert resolved(SplitSpec(), True, sizes | {"val": 0}).unit == "group"
    assert resolved(SplitSpec(scheme="kfold"), True, sizes).unit == "group"
    assert resolved(SplitSpec(scheme="kfold"), False, sizes).unit is None
    assert resolved(SplitSpec(unit="cell"), True, None).unit == "cell"


def test_records_of_before_keep_their_donors() -> None:
    """`unit` is absent in their specs: they are verified with the draw that they were made with."""
    cells = make(groups=np.arange(400) % 20)
    old = make_split(cells, SplitSpec(scheme="stratified"))
    assert sorted(set(cells.groups[old.test])) == [2, 3, 11, 17, 19]  # type: ignore[index]


def test_the_fewest_groups() -> None:
    check_group_count(3)
    with pytest.raises(DataError, match=r"at least 3 groups.*split.unit=cell"):
        check_group_count(2)
