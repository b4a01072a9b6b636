"""Boards by metrics of the registry: computed from stored predictions, with intervals, ranks and baselines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from wbcbench.api.boards import BoardRequest, CompareRequest
from wbcbench.boards import Options, build, report
from wbcbench.boards.effects import effects
from wbcbench.errors import UsageError
from wbcbench.records import verify as checks
from wbcbench.records.store import Store

PLUGIN = """
import numpy as np
from wbcbench.contracts import Metric, Parameters, param


class Guess(Metric):
    '''The mean probability of the predicted class.'''
    name = "guess"

    class Params(Parameters):
        power: float = param(1.0, "Of the probability.")

    def score(self, predictions, labels):
        return float((predictions.max(1) ** self.params.power).mean())
"""


def board(store, **more):
    options = BoardRequest(store=store.root, resamples=300, **more).options()
    return report([store], options).boards[0]


def test_a_metric_ranks_a_store_that_knew_nothing_of_it(shared):
    plain, found = board(shared), board(shared, by="mcc")
    assert [m.name for m in found.more_metrics] == ["mcc"]
    assert (found.by, found.higher_is_better, plain.more_metrics) == ("mcc", True, ())
    for row in found.rows:
        each = []
        for source in row.sources:
            arrays = checks.read_predictions(source.path)
            each.append(matthews_corrcoef(arrays["test_labels"], arrays["test_probabilities"].argmax(1)))
            assert source.metrics["mcc"] == pytest.approx(each[-1])
        e = row.metrics["mcc"]
        assert e.mean == pytest.approx(np.mean(each))
        assert e.low <= e.mean <= e.high
        assert e.low < e.high
        known = plain.row(row.method_id).metrics
        assert known == {m: x for m, x in row.metrics.items() if m != "mcc"}, "what records state stays"
    ranked = [r.metrics["mcc"].mean for r in found.rows if r.status == "ranked"]
    assert ranked == sorted(ranked, reverse=True)
    gated = next(r for r in found.rows if r.method == "gated")
    assert gated.over_single is not None
    assert gated.over_single.value > 0


def test_lower_is_better_ranks_from_below(shared):
    costs = "expected_cost:costs=[[0,1,1],[1,0,1],[1,1,0]]"
    found = board(shared, by=costs)
    assert not found.higher_is_better
    ranked = [r.metrics[found.by].mean for r in found.rows if r.status == "ranked"]
    assert ranked == sorted(ranked)
    for row in found.rows:  # a cost of 1 for every error is 1 - accuracy
        mine, accuracy = row.metrics[found.by], row.metrics["accuracy"]
        assert mine.mean == pytest.approx(1 - accuracy.mean)
        assert row.status != "ranked" or mine.sd == pytest.approx(accuracy.sd)
    gated = next(r for r in found.rows if r.method == "gated")
    same = next(r for r in board(shared, by="accuracy").rows if r.method == "gated")
    assert gated.over_single.value == pytest.approx(same.over_single.value)
    assert gated.over_single.low == pytest.approx(same.over_single.low, abs=1e-6)


def test_the_best_single_is_the_best_by_validation_on_the_metric(study, add):
    """The two singles differ: one is better on validation, the other on test cells."""
    from wbcbench.testing.records import fake_predictions, fake_trial

    for seed in (0, 1):
        good, bad = fake_predictions(seed, skill=9.0), fake_predictions(seed, skill=-9.0)
        mixed = {k: (good if k.startswith("val") else bad)[k] for k in good}
        add(study, fake_trial(seed, fusion="single", modalities=("brightfield",)), predictions=mixed)
    found = board(study, by="mcc")
    gated = next(r for r in found.rows if r.method == "gated")
    assert "brightfield" in gated.over_single.against_name
    assert gated.over_single.value > 0.5


def test_statistics_are_cached_by_the_metric_and_its_parameters(study, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(PLUGIN)

    def ask(by):
        from wbcbench.api.requests import plugin_options

        return board(study, by=by, plugins=plugin_options(tmp_path / "plugins", False))

    one, two = ask("guess"), ask("guess:power=2")
    assert two.by == "guess:power=2.0"
    first, second = (b.rows[0].metrics[b.by] for b in (one, two))
    assert first.mean > second.mean
    assert first.low < first.mean < first.high
    files = {p.name for p in (study.root / "index" / "statistics").iterdir()}
    assert ask("guess").rows[0].metrics["guess"] == first
    assert {p.name for p in (study.root / "index" / "statistics").iterdir()} == files
    (tmp_path / "plugins" / "mine.py").write_text(PLUGIN.replace(".mean())", ".min())"))
    assert ask("guess").rows[0].metrics["guess"].mean < first.mean
    assert {p.name for p in (study.root / "index" / "statistics").iterdir()} > files


def test_compare_effects_and_shares_know_it(shared):
    request = CompareRequest(store=shared.root, by="mcc", resamples=300, a="gated", b="independent")
    told = request.explain()
    assert told.by == "mcc"
    assert any(line.startswith("mcc over seeds 0, 1") for line in told.lines())
    options = BoardRequest(store=shared.root, by="mcc", resamples=300).options()
    (found,) = effects([shared], "fusion", options, "independent")
    assert found.by == "mcc"
    gated = next(e for e in found.effects if e.level == "gated")
    assert gated.lead == pytest.approx(told.lead)


def test_the_classes_of_a_metric_per_class(shared):
    from wbcbench.boards.per import per

    options = BoardRequest(
        store=shared.root, by="sensitivity_at_specificity:specificity=0.7", statistics=False
    ).options()
    (found,) = per([shared], "class", options)
    rows = build([shared], options)[0]
    for row in found.rows:
        whole = rows.row(row.method_id).metrics[options.by].mean
        assert np.mean(row.values) == pytest.approx(whole)


@pytest.mark.parametrize("style", ["plain", "csv", "markdown", "latex", "json", "html"])
def test_every_format_shows_it(style, shared, invoke, tmp_path):
    target = tmp_path / f"board.{style}"
    code, _, err = invoke(
        "leaderboard", "--store", str(shared.root), "--metric", "mcc", "--resamples", "100",
        "--format", style, "-o", str(target),
    )  # fmt: skip
    assert code == 0, err
    assert "mcc" in target.read_text()
    if style == "csv":
        header = target.read_text().splitlines()[0].split(",")
        assert {"mcc", "mcc_sd", "mcc_low", "mcc_high"} <= set(header)
    if style == "json":
        (metric,) = json.loads(target.read_text())["boards"][0]["more_metrics"]
        assert (metric["name"], metric["low"], metric["high"]) == ("mcc", -1.0, 1.0)


def test_fewer_resamples_are_noted(shared):
    """A metric that is called for each resample gets the first thousand."""
    by = "sensitivity_at_specificity"
    few = report([shared], BoardRequest(store=shared.root, by=by, resamples=1000).options()).boards[0]
    more = report([shared], BoardRequest(store=shared.root, by=by, resamples=2000).options()).boards[0]
    assert not [n for n in few.notes if "resamples" in n]
    assert f"Intervals by {by} are from the first 1000 of the 2000 resamples." in more.notes
    a, b = (board.rows[0].metrics[by] for board in (few, more))
    assert (a.low, a.high) == (pytest.approx(b.low, rel=0.01), pytest.approx(b.high, rel=0.01))


def test_damaged_predictions_are_left_out(study):
    trial = next(p for p in sorted((study.root / "records").iterdir()))
    (trial / "predictions.npz").write_bytes(b"nothing")
    found = report([study], BoardRequest(store=study.root, by="mcc", statistics=False, verify="quick").options())
    assert trial.name in {r.record for r in found.refused}
    assert all(s.trial_id != trial.name for b in found.boards for r in b.rows for s in r.sources)


def test_what_does_not_exist_or_has_no_order_is_refused(shared):
    with pytest.raises(UsageError, match=r"No metric is called 'mc'. Did you mean 'mcc'"):
        BoardRequest(store=shared.root, by="mc").options()
    with pytest.raises(UsageError, match="No metric is called 'mcc'"):
        Options(by="mcc")
    options = BoardRequest(store=shared.root, metric="quadratic_kappa").options()
    with pytest.raises(UsageError, match="the data set declares none"):
        report([shared], options)


def test_the_frame_has_its_columns(shared: Store) -> None:
    import wbcbench

    frame = wbcbench.leaderboard(shared.root, metric=["mcc", "macro_f1"], resamples=100).frame()
    assert {"mcc", "mcc_low"} <= set(frame.columns)
