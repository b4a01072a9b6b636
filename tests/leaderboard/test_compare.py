import numpy as np
import pytest
from scipy.stats import binomtest

from wbcbench.errors import ComparabilityError, UsageError
from wbcbench.leaderboard import Options, build
from wbcbench.leaderboard.compare import explain
from wbcbench.spec import Budget
from wbcbench.spec.trial import SplitSpec
from wbcbench.testing.records import fake_trial

FAST = Options(resamples=200, verify="files")


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


def test_words(shared):
    text = "\n".join(explain([shared], "gated", "independent", FAST).lines())
    for part in ("macro-F1 over seeds 0, 1", "McNemar", "F1 by class", "parameters 1x", "fusion.name"):
        assert part in text
    text = "\n".join(explain([shared], "independent + logits", "independent", FAST).lines())
    assert "one seed says nothing of others" in text
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
    with pytest.raises(ComparabilityError, match=r"budget\.epochs"):
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


def test_several_splits(store, monkeypatch):
    """Boards that differ in nothing but the split are resamples of one data set."""
    from wbcbench.records.schema import ComparisonKey
    from wbcbench.testing import records as fakes

    made = fakes.fake_outcome
    for number, (a, b) in enumerate([(2.5, 1.0), (2.5, 1.5), (3.0, 1.0)]):
        for fusion, skill in (("x", a), ("y", b)):
            trial = fake_trial(0, fusion=fusion, split=SplitSpec(scheme="stratified", seed=number))
            p = fakes.fake_predictions(number, skill=skill, cells=60)
            outcome = made(trial, p)
            key = ComparisonKey.of(trial, fingerprint="f" * 16, split=f"{number}" * 16, classes=fakes.CLASSES)
            monkeypatch.setattr(
                fakes, "fake_outcome", lambda *_, o=outcome, k=key, **__: o.model_copy(update={"key": k})
            )
            fakes.fake_record(store, trial, predictions=p)
    boards = build([store], FAST)
    assert len(boards) == 3
    found = explain([store], "x", "y", Options(keys=(boards[0].digest,), resamples=200))
    assert found.splits is None  # only one split was asked for
    every = explain([store], boards[0].rows[0].method_id, boards[0].rows[1].method_id, FAST)
    assert every.splits.startswith("Over 3 splits")
