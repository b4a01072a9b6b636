from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from wbcbench.boards import Options, build
from wbcbench.boards.compare import explain
from wbcbench.boards.statistics import corrected_resampled_t
from wbcbench.errors import ComparabilityError, UsageError
from wbcbench.records.store import Store
from wbcbench.spec import Budget
from wbcbench.spec.trial import SplitSpec
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

FAST = Options(resamples=200, verify="files")


@pytest.fixture(scope="module")
def matrix_of_rows(tmp_path_factory):
    """Four rows of three seeds that differ a little, and their board."""
    store = Store(tmp_path_factory.mktemp("rows") / "store")
    for i, (fusion, skill) in enumerate({"x": 2.0, "y": 1.8, "z": 1.2, "w": 1.5}.items()):
        for seed in (0, 1, 2):
            p = fake_predictions(10 * i + seed, cells=80, skill=skill)
            fake_record(store, fake_trial(seed, fusion=fusion), predictions=p)
    (board,) = build([store], FAST)
    return store, board


def test_it_agrees_with_the_board_and_with_the_predictions(shared):
    found = explain([shared], "gated", "independent", FAST)
    (board,) = build([shared], FAST)
    shown = board.comparisons[0]
    assert (found.lead, found.low, found.high) == pytest.approx((shown.value, shown.low, shown.high), abs=1e-5)
    assert found.seeds == (0, 1)
    records = {(r.result.fusion, r.result.seed): r for r in shared.scan()[0] if r.result.kd == "none"}
    right = {
        f: records[f, 0].predictions["test_probabilities"].argmax(1) == records[f, 0].predictions["test_labels"]
        for f in ("gated", "independent")
    }
    a, b = int((right["gated"] & ~right["independent"]).sum()), int((right["independent"] & ~right["gated"]).sum())
    assert (found.mcnemar[0].only_a, found.mcnemar[0].only_b) == (a, b)
    assert found.mcnemar[0].p == pytest.approx(binomtest(a, a + b).pvalue)
    assert np.mean([c.f1 for c in found.classes]) == pytest.approx(found.lead)
    assert found.differences == ("fusion.name: gated != independent",)
    assert found.comparisons == 1
    back = explain([shared], "independent", "gated", FAST)
    assert back.lead == pytest.approx(-found.lead)
    assert (back.p, back.p_holm, back.level) == (found.p, found.p_holm, found.level)
    assert back.chance == pytest.approx(1 - found.chance)
    assert found.detectable == back.detectable > 0


def test_p_is_the_boards_own_over_all_pairs(matrix_of_rows):
    store, board = matrix_of_rows
    leader = board.row(board.comparisons[0].leader)
    for c in board.comparisons:
        other = board.row(c.row).name
        there, back = explain([store], leader.name, other, FAST), explain([store], other, leader.name, FAST)
        assert there.p_holm == back.p_holm == pytest.approx(c.p_holm, abs=1e-6)
        assert there.p == back.p == pytest.approx(c.p, abs=1e-6)
        assert there.comparisons == 6


def test_level_within_a_margin(matrix_of_rows):
    store, _ = matrix_of_rows
    wide, narrow = (explain([store], "x", "y", replace(FAST, margin=m)) for m in (0.5, 0.001))
    assert (wide.level, narrow.level) == (True, False)
    assert "Level within 0.5 (equivalence test" in "\n".join(wide.lines())
    assert "Not shown to be level within 0.001" in "\n".join(narrow.lines())
    assert "with a probability of" in "\n".join(wide.lines())
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="margin above 0"):
            Options(margin=margin)


def test_words(shared):
    text = "\n".join(explain([shared], "gated", "independent", FAST).lines())
    for part in ("macro-F1 over seeds 0, 1", "McNemar", "F1 by class", "parameters 1x", "fusion.name"):
        assert part in text
    text = "\n".join(explain([shared], "independent + logits", "independent", FAST).lines())
    assert "over cells, and seeds as in other rows" in text
    alone = explain([shared], "independent + logits", "independent", replace(FAST, seeds=(0,)))
    assert "One seed says nothing of others: no verdict" in "\n".join(alone.lines())
    assert (alone.p, alone.p_holm, alone.p_level, alone.chance, alone.detectable) == (None,) * 5
    assert not alone.beyond_noise
    assert not alone.level
    assert "teachers: [big on dapi] != none" in text
    assert "distillers" in text


def test_names(shared):
    (board,) = build([shared], FAST)
    gated = board.rows[0]
    for name in (gated.method_id[:8], gated.sources[0].trial_id, "gated"):
        assert explain([shared], name, "independent", FAST).a_id == gated.method_id
    with pytest.raises(UsageError, match="Did you mean 'gated'"):
        explain([shared], "gatd", "independent", FAST)
    with pytest.raises(UsageError, match="two methods"):
        explain([shared], "gated", "gated", FAST)
    with pytest.raises(UsageError, match=r"could be .*single\[dapi\]"):
        explain([shared], "single[dapi]", "gated", FAST)


def test_methods_of_different_boards(study, add):
    add(study, fake_trial(0, fusion="far", budget=Budget(epochs=9)))
    with pytest.raises(ComparabilityError, match=r"budget\.epochs(.|\n)*Only rows of one table can be compared"):
        explain([study], "far", "gated", FAST)
    add(study, fake_trial(0, fusion="gated_twice", budget=Budget(epochs=9)))
    with pytest.raises(ComparabilityError, match="In the table of 'far': gated_twice"):
        explain([study], "far", "gated", FAST)
    add(study, fake_trial(0, fusion="gated", budget=Budget(epochs=9)))
    add(study, fake_trial(0, budget=Budget(epochs=9)))
    with pytest.raises(UsageError, match="--key"):
        explain([study], "gated", "independent", FAST)


def test_no_shared_seed(store, add):
    add(store, fake_trial(0))
    add(store, fake_trial(1, fusion="gated"))
    with pytest.raises(ComparabilityError, match="share a seed"):
        explain([store], "gated", "independent", FAST)


def resampled(store, number, skills, seeds=(0,), shift=100, **spec):
    """Rows of one split: fusion -> skill; every split has test cells of its own."""
    for fusion, skill in skills.items():
        for seed in seeds:
            trial = fake_trial(seed, fusion=fusion, split=SplitSpec(seed=number), **spec)
            p = fake_predictions(number + 10 * seed, skill=skill, cells=60)
            p["test_cells"] = p["test_cells"] + shift * number
            fake_record(store, trial, predictions=p, split=f"{number}" * 16)


def test_several_splits_are_one_question(store):
    """The largest board is shown, and Nadeau and Bengio's test joins all, whatever --key chooses."""
    for number, (a, b) in enumerate([(2.5, 1.0), (2.5, 1.5), (3.0, 1.0)]):
        resampled(store, number, {"x": a, "y": b, **({"z": 1.0} if number == 1 else {})})
    boards = build([store], FAST)
    assert boards[0].key.split[0] == "1"
    found = explain([store], "x", "y", FAST)
    assert found.board == boards[0].digest
    leads = [m["x"] - m["y"] for b in boards for m in [{r.name: r.metrics["macro_f1"].mean for r in b.rows}]]
    expected = corrected_resampled_t(leads, 0.25 / 0.6)
    assert found.splits.startswith(f"Over 3 splits of the same data, seed 0: lead {expected.value:+.4f}")
    assert f"p = {expected.p:.3g}" in found.splits
    assert f"beats B with a probability of {expected.chance:.2f}" in found.splits
    for board in boards:
        one = explain([store], "x", "y", replace(FAST, keys=(board.digest,)))
        assert (one.board, one.splits) == (board.digest, found.splits)
    assert all("One of 3 boards that differ in nothing but the split" in b.notes[-1] for b in boards)


def test_rows_of_other_splits_are_matched_by_what_they_are_and_by_seed(store):
    """Not by their names, which depend on what else is on a board; and never a mean over other seeds."""
    resampled(store, 0, {"x": 2.5, "y": 1.0}, seeds=(0, 1))
    resampled(store, 1, {"x": 2.5, "y": 1.5}, seeds=(0, 1))
    resampled(store, 2, {"x": 3.0}, seeds=(0, 1))
    resampled(store, 2, {"y": 1.0}, seeds=(0,))
    other = fake_trial(0, fusion="x", backbone="big", split=SplitSpec(seed=1))
    p = fake_predictions(3, cells=60)
    p["test_cells"] = p["test_cells"] + 100
    fake_record(store, other, predictions=p, split="1" * 16)
    boards = {b.key.split[0]: b for b in build([store], FAST)}
    assert "x" not in {r.name for r in boards["1"].rows}, "there it has a longer name"
    found = explain([store], "x", "y", replace(FAST, keys=(boards["0"].digest,)))
    assert found.splits.startswith("Over 2 splits of the same data, seeds 0, 1")
    assert "Left out: 1 split without these seeds" in found.splits


def test_the_same_test_cells_are_no_resample(store):
    for number in (0, 1):
        resampled(store, number, {"x": 2.5, "y": 1.0 + number}, shift=0)
    assert "nothing was resampled" in explain([store], "x", "y", FAST).splits


def test_a_third_row_that_cannot_be_trusted_is_left_out_as_on_the_board(study, add):
    before = explain([study], "gated", "independent", FAST)
    p = fake_predictions(5)
    p["test_cells"] = p["test_cells"][::-1].copy()
    for seed in (0, 1):
        add(study, fake_trial(seed, fusion="rogue"), predictions=p)
    found = explain([study], "gated", "independent", FAST)
    assert found.lead == before.lead
    assert found.comparisons == before.comparisons
    assert len(found.refused) == 2
    assert all("other test cells" in reason for reason in found.refused)
    assert str(study.root) not in " ".join(found.refused)
    assert "Left out of this board:" in found.lines()
    with pytest.raises(ComparabilityError, match="other test cells"):
        explain([study], "gated", "rogue", FAST)
