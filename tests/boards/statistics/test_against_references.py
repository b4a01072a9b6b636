"""Every test and correction against scipy, statsmodels, published tables or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from wbcbench.boards.board_statistics import spread as spread_of
from wbcbench.boards.statistics import (
    Contrasts,
    bootstrap,
    corrected_resampled_t,
    critical_difference,
    draws,
    effective_clusters,
    features,
    friedman,
    holm,
    mcnemar,
    nemenyi_groups,
    probability_of_improvement,
    seed_variance,
    uncertainty,
)
from wbcbench.boards.statistics.hypothesis_tests import Uncertainty
from wbcbench.evaluation.metrics import METRICS, score

CLASSES = ("a", "b", "c", "d")


def guesses(n=400, skill=1.5, seed=0, k=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    z = rng.normal(size=(n, k)) + skill * np.eye(k)[y]
    p = np.exp(z)
    return (p / p.sum(1, keepdims=True)).astype(np.float32), y


def alone(n):
    return np.arange(n)


@pytest.mark.parametrize("k", [2, 4])
def test_sums_give_every_stored_metric(k):
    p, y = guesses(k=k)
    f = features(p, y, alone(len(y)))
    mine = f.metrics(f.columns.sum(0)[None])
    stored = score(p, y, CLASSES[:k]).summary
    assert set(mine) == set(METRICS)
    for name, value in stored.items():
        assert mine[name][0] == pytest.approx(value, abs=1e-9), name


def test_a_resample_is_the_metric_of_the_drawn_cells():
    p, y = guesses(n=60)
    f = features(p, y, alone(60))
    names = ["macro_f1", "balanced_accuracy", "nll", "brier", "ece", "accuracy"]
    got = bootstrap([f], names, resamples=20)[0]
    counts = np.concatenate(list(draws(60, 20))).astype(int)
    for r in range(20):
        cells = np.repeat(np.arange(60), counts[r])
        said = score(p[cells], y[cells], CLASSES).summary
        assert got[:, r] == pytest.approx([said[m] for m in names], abs=1e-9)


def test_clusters_are_drawn_whole_and_blocks_do_not_matter():
    p, y = guesses(n=90)
    donors = np.arange(90) // 10
    f = features(p, y, donors)
    assert f.columns.shape[0] == 9
    assert f.metrics(f.columns.sum(0)[None])["macro_f1"][0] == pytest.approx(
        score(p, y, CLASSES).summary["macro_f1"]
    )
    counts = np.concatenate(list(draws(9, 450)))
    assert counts.shape == (450, 9)
    assert (counts.sum(1) == 9).all()
    a, b = bootstrap([f], ["macro_f1"], 450), bootstrap([f, f], ["macro_f1"], 450)
    assert a[0].tobytes() == b[1].tobytes()


def test_bootstrap_error_of_accuracy_is_the_binomial_one():
    p, y = guesses(n=300)
    f = features(p, y, alone(300))
    found = bootstrap([f], ["accuracy"])[0]
    share = float((p.argmax(1) == y).mean())
    u = uncertainty(np.array([share]), found, 300)
    assert u.se == pytest.approx(math.sqrt(share * (1 - share) / 299), rel=0.03)
    low, high = u.interval()
    half = stats.t.ppf(0.975, 299) * u.se
    assert (low, high) == pytest.approx((share - half, share + half))


def test_an_error_larger_than_the_value_is_no_matter_of_logarithms() -> None:
    """The calibration error of a row that is nearly perfect: on a log scale, from 0 to a trillion."""
    u = Uncertainty(1e-3, 1e-2, 2.0)
    half = 4.302652729911275 * 1e-2  # Student's t, 2 degrees of freedom
    assert u.interval(scale="log") == pytest.approx((0.0, 1e-3 + half))
    low, high = Uncertainty(0.5, 0.01, 2.0).interval(scale="log")
    assert (low, high) == pytest.approx((0.5 * np.exp(-2 * half), 0.5 * np.exp(2 * half)))


def test_auroc_effects_are_delongs():
    """One class against the other: DeLong's variance from its own definition, by all pairs."""
    p, y = guesses(n=200, k=2)
    f = features(p, y, alone(200))
    s, pos = p[:, 1].astype(float), y == 1
    psi = (s[pos][:, None] > s[~pos]) + 0.5 * (s[pos][:, None] == s[~pos])
    delong = psi.mean(1).var(ddof=1) / pos.sum() + psi.mean(0).var(ddof=1) / (~pos).sum()
    assert f.auroc == pytest.approx(psi.mean())
    effects = f.columns[:, -1]
    assert effects.sum() == pytest.approx(0, abs=1e-9)
    assert (effects**2).sum() / 200**2 == pytest.approx(delong, rel=0.02)


def test_seeds_alone_are_a_paired_t_test():
    d = np.array([0.02, 0.05, 0.01, 0.04])
    u = uncertainty(d, np.repeat(d[:, None], 100, 1), 50)
    assert u.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert u.df == pytest.approx(3)


def test_identical_seeds_leave_the_cells():
    rng = np.random.default_rng(0)
    row = rng.normal(0.1, 0.02, 5000)
    u = uncertainty(np.full(3, 0.1), np.stack([row] * 3), 40)
    assert u.se == pytest.approx(row.std(ddof=1) * math.sqrt(40 / 39))
    assert u.df == pytest.approx(39)


def test_nothing_differs():
    u = uncertainty(np.zeros(3), np.zeros((3, 10)), 40)
    assert (u.p, u.interval()) == (1.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="two clusters"):
        uncertainty(np.zeros(1), np.zeros((1, 10)), 1)


def test_holm():
    p = [0.01, 0.04, 0.03, 0.005, 0.9, 0.04]
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(("b", "c"), [(10, 3), (0, 6), (25, 60)])
def test_mcnemar(b, c):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    first = np.array([True] * b + [False] * c + [True] * 40)
    second = np.array([False] * b + [True] * c + [True] * 40)
    mine = mcnemar(first, second)
    table = [[40, b], [c, 0]]
    exact, approximate = tables.mcnemar(table, exact=True), tables.mcnemar(table, exact=False, correction=True)
    assert (mine.only_a, mine.only_b) == (b, c)
    assert mine.exact_p == pytest.approx(exact.pvalue)
    assert (mine.chi2, mine.chi2_p) == pytest.approx((approximate.statistic, approximate.pvalue))


def test_mcnemar_without_disagreement():
    assert mcnemar([True, False], [True, False]).exact_p == 1.0
    with pytest.raises(ValueError, match=r"\[N\]"):
        mcnemar([True], [True, False])


def test_corrected_resampled_t():
    d = np.array([0.03, 0.01, 0.05, -0.01, 0.02])
    plain = stats.ttest_1samp(d, 0)
    mine = corrected_resampled_t(d, 1 / 9)
    # the closed form: t shrinks by sqrt((1 / J) / (1 / J + n_test / n_train))
    assert mine.value / mine.se == pytest.approx(plain.statistic * math.sqrt(0.2 / (0.2 + 1 / 9)))
    assert mine.p == pytest.approx(2 * stats.t.sf(abs(mine.value / mine.se), 4))
    assert mine.p > plain.pvalue


def test_friedman_and_nemenyi():
    # Demsar (2006), table 6: C4.5 with and without tuning of cutoff and leaf size on 14 data sets
    table = np.array([
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ])  # fmt: skip
    found = friedman(table)
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=1e-3)
    expected = stats.friedmanchisquare(*table.T)
    assert (found.chi2, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.f_p < 0.05
    cd = critical_difference(4, 14, alpha=0.10)
    assert cd == pytest.approx(1.12, abs=0.005)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    # with alpha 0.10, as in the paper: the tuned ones differ from C4.5 at 1.12
    assert nemenyi_groups(found.mean_ranks, cd) == [(3, 1, 2), (2, 0)]
    assert friedman(np.ones((3, 4))).p == 1.0
    with pytest.raises(ValueError, match="3 methods"):
        friedman(np.ones((3, 2)))


def test_probability_of_improvement():
    a, b = [[3.0, 4.0, 5.0], [1.0, 1.0]], [[1.0, 2.0, 3.0], [1.0, 2.0]]
    value, low, high = probability_of_improvement(a, b)
    u = [stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(a, b, strict=True)]
    assert value == pytest.approx(np.mean(u))
    assert 0 <= low <= value <= high <= 1
    assert probability_of_improvement([[2.0]], [[1.0]]) == (1.0, 1.0, 1.0)


def board_of(rows, seeds, rng, clusters=40):
    """Values [rows, seeds] and resamples that all share something."""
    x = rng.normal(size=(rows, seeds))
    return x, x[:, :, None] + rng.normal(size=(rows, seeds, 400)) * 0.3 + rng.normal(size=400), clusters


@pytest.mark.parametrize(("rows", "seeds"), [(2, 3), (6, 4), (5, 1)])
def test_all_pairs_at_once_are_each_pair_alone(rows, seeds):
    x, resampled, clusters = board_of(rows, seeds, np.random.default_rng(rows))
    variances, df = np.linspace(0.5, 2, rows), 7.0
    every = Contrasts.of(x, resampled, clusters, (variances, df))
    for i in range(rows):
        for j in range(rows):
            known = variances[i] + variances[j], df
            one = uncertainty(x[i] - x[j], resampled[i] - resampled[j], clusters, known)
            if i != j:
                assert tuple(every.pair(i, j)) == pytest.approx(tuple(one))
                assert every.p()[i, j] == pytest.approx(one.p)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    upper = np.triu_indices(rows, 1)
    adjusted = every.p_holm()
    assert adjusted[upper] == pytest.approx(multitest.multipletests(every.p()[upper], method="holm")[1])
    assert (adjusted == adjusted.T).all()


def test_rows_of_equal_predictions_do_not_differ():
    x, resampled, clusters = board_of(2, 3, np.random.default_rng(0))
    twins = Contrasts.of(x[[0, 0, 1]], resampled[[0, 0, 1]], clusters, (np.zeros(3), 2.0))
    assert (twins.pair(0, 1).p, twins.pair(0, 1).se, twins.pair(0, 1).chance) == (1.0, 0.0, 0.5)


def test_the_set_of_the_best_is_bonferronis_over_the_others_of_each_row():
    x, resampled, clusters = board_of(5, 3, np.random.default_rng(3))
    x[4] -= 8
    every = Contrasts.of(x, resampled, clusters, (np.full(5, 0.2), 30.0))
    for i in range(5):
        worse = [stats.t.sf(every.value[j, i] / every.se[i, j], every.df[i, j]) for j in range(5) if j != i]
        assert every.best()[i] == pytest.approx(min(1.0, 4 * 2 * min(worse)))
    assert every.best()[4] < 0.001
    assert every.best()[x.mean(1).argmax()] == 1.0


def test_of_one_seed_there_is_no_verdict():
    x, resampled, clusters = board_of(3, 1, np.random.default_rng(0))
    every = Contrasts.of(x, resampled, clusters, None)
    u = uncertainty(x[0] - x[1], resampled[0] - resampled[1], clusters)
    assert every.pair(0, 1).interval() == pytest.approx(u.interval())
    for value in (u.p, u.chance, u.equivalent(0.1), u.detectable(), every.detectable(), every.best()[0]):
        assert math.isnan(value)
    assert np.isnan(every.p_holm()[0, 1])
    assert np.isnan(holm([math.nan, 0.01])).tolist() == [True, False]


def test_a_row_of_one_seed_gets_what_the_others_say():
    """Smyth's prior: rows of one common variance give it with all of their degrees of freedom."""
    rng = np.random.default_rng(4)
    found = seed_variance(0.1 * rng.normal(size=(400, 3)))
    assert found.other == pytest.approx(0.01, rel=0.1)
    assert found.other_df > 20
    spread = np.sqrt(4.0 * 0.01 / rng.chisquare(4.0, 2000))
    assert seed_variance(spread[:, None] * rng.normal(size=(2000, 4))).other_df == pytest.approx(4.0, rel=0.2)
    assert math.isnan(seed_variance(rng.normal(size=(2, 3))).other)
    values = {"a": {0: 0.7, 1: 0.8}, "b": {0: 0.6, 1: 0.65}, "c": {0: 0.5, 1: 0.52}, "d": {0: 0.4}}
    every = seed_variance([[0.7, 0.8], [0.6, 0.65], [0.5, 0.52]])
    got = spread_of(values, (0,))
    assert (got.of["d"], got.df) == (every.other, every.other_df)
    assert got.difference("a", "d")[0] == pytest.approx(every.rows[0] + every.other)
    assert spread_of({m: {0: v[0]} for m, v in values.items()}, (0,)) is None


@pytest.mark.parametrize("n", [6, 40])
def test_equivalence_and_resolution(n):
    """statsmodels' two one-sided tests, and its power of the t-test."""
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    power = pytest.importorskip("statsmodels.stats.power")
    d = np.random.default_rng(n).normal(0.02, 0.1, n)
    u = Uncertainty(float(d.mean()), float(d.std(ddof=1) / math.sqrt(n)), n - 1)
    for margin in (0.05, 0.2):
        assert u.equivalent(margin) == pytest.approx(weightstats.DescrStatsW(d).ttost_mean(-margin, margin)[0])
    effect = power.TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert u.detectable() == pytest.approx(effect * float(d.std(ddof=1)), rel=1e-3)


def test_the_chance_of_a_better_run_is_a_prediction():
    """Of seeds alone: the t of one more value, s sqrt(1 + 1 / n)."""
    d = np.array([0.02, 0.05, 0.01, 0.04])
    u = uncertainty(d, np.repeat(d[:, None], 100, 1), 50)
    assert u.chance == pytest.approx(stats.t.cdf(d.mean() / (d.std(ddof=1) * math.sqrt(1.25)), 3))
    assert corrected_resampled_t(d, 0.5).chance == pytest.approx(u.chance)
    # two seeds a split, whose mean has half of their variance
    both = np.stack([d - 0.01, d + 0.01], axis=1)
    run = math.sqrt(d.var(ddof=1) * 1.25 + 0.5 * 2 * 0.01**2)
    assert corrected_resampled_t(both, 0.5).chance == pytest.approx(stats.t.cdf(d.mean() / run, 3))
    assert corrected_resampled_t(both, 0.5).p == pytest.approx(corrected_resampled_t(d, 0.5).p)


def test_an_interval_ends_at_what_is_possible():
    """Two seeds: one degree of freedom, whose interval alone would be -3 to 3."""
    u = Uncertainty(0.1, 0.25, 1.0)
    assert u.interval()[1] > 3
    assert u.interval(limits=(-1.0, 1.0)) == (-1.0, 1.0)
    assert Uncertainty(1.0, 0.01, 5.0).interval(scale="logit", limits=(0.0, 1.0))[1] == 1.0


@pytest.mark.parametrize("sizes", [[1] * 7, [1, 1, 1, 1, 6], [10, 15, 20, 25, 30]])
def test_effective_clusters_by_their_matrix(sizes):
    w = np.array(sizes) / sum(sizes)
    centred = np.eye(len(w)) - np.outer(np.ones(len(w)), w)
    form = centred.T @ np.diag(w**2) @ centred
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert effective_clusters(sizes) == pytest.approx(1 + expected)
    if len(set(sizes)) == 1:
        assert expected == pytest.approx(len(sizes) - 1)


def test_holm_within_a_larger_family():
    p = [0.001, 0.2, 0.01]
    assert holm(p, 10) == pytest.approx(holm([*p, *[1.0] * 7])[:3])
    assert holm(p, 2) == holm(p)


def test_seed_variance_of_two_rows_is_a_paired_t_test():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5))
    found = seed_variance(x)
    assert found.rows.sum() == pytest.approx((x[0] - x[1]).var(ddof=1))
    assert found.df == 4
    with pytest.raises(ValueError, match="rows >= 2"):
        seed_variance(x[:, :1])


def test_seed_variance_of_equal_rows_is_the_mean_square_of_a_two_way_layout():
    """Seeds' common effect is taken out; equal spreads are pooled with all their degrees of freedom."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3)) * 0.1 + rng.normal(size=3) + rng.normal(size=(40, 1))
    found = seed_variance(x)
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    square = (rest**2).sum() / (39 * 2)
    assert found.df > 20
    assert np.median(found.rows) == pytest.approx(square, rel=0.3)
    assert np.ptp(found.rows) < square


def test_seed_variance_follows_rows_that_differ():
    """Smyth's own check: with variances drawn from the prior, its degrees of freedom are found again."""
    rng = np.random.default_rng(2)
    d0, s0 = 4.0, 0.01
    spread = np.sqrt(d0 * s0 / rng.chisquare(d0, 2000))
    found = seed_variance(spread[:, None] * rng.normal(size=(2000, 4)))
    assert found.df == pytest.approx(3 + d0, rel=0.15)
    still = np.vstack([np.full((1, 4), 0.5), spread[:50, None] * rng.normal(size=(50, 4))])
    assert np.isfinite(seed_variance(still).rows).all()
