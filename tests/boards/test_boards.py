import json
import statistics
from dataclasses import replace

import numpy as np
import pytest

from wbcbench.api import defaults
from wbcbench.boards import Options, build, report
from wbcbench.boards.board_statistics import BoardStatistics
from wbcbench.boards.compare import explain
from wbcbench.boards.effects import effects
from wbcbench.boards.formats import render
from wbcbench.boards.gather import usual_seeds
from wbcbench.boards.model import Report
from wbcbench.boards.names import distinct
from wbcbench.boards.statistics import holm
from wbcbench.errors import ComparabilityError, UsageError
from wbcbench.publishing.changes import read_report
from wbcbench.records.evaluations import examination_path, write_examination
from wbcbench.records.schema import Pull
from wbcbench.records.store import Store
from wbcbench.spec import Budget, ComponentSpec, Method
from wbcbench.spec.trial import Recipe, Trial
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

FAST = Options(resamples=200, verify="files")


def test_rows(shared, shared_report):
    (board,) = shared_report.boards
    rows = board.rows
    assert [r.name for r in rows[:2]] == ["gated", "independent"]
    assert [r.status for r in rows] == ["ranked", "ranked", "reference", "reference", "incomplete"]
    assert [r.rank is None for r in rows] == [False, False, True, True, True]
    assert board.seeds == (0, 1)
    assert (rows[4].n, rows[4].seeds, rows[4].missing_seeds) == (1, (0,), (1,))
    assert rows[4].teacher_backbones == ("big",)
    assert [r.foreign for r in rows] == ["stranger", "", "", "", ""]
    values = [r.result.metrics["test"]["macro_f1"] for r in shared.scan()[0] if r.result.fusion == "gated"]
    e = rows[0].metrics["macro_f1"]
    assert (e.mean, e.sd) == pytest.approx((statistics.fmean(values), statistics.stdev(values)))
    assert e.low < e.mean < e.high
    assert rows[4].metrics["macro_f1"].sd is None


def test_gains_are_paired_and_name_what_they_are_against(shared_report):
    (board,) = shared_report.boards
    gated = board.rows[0]
    assert gated.over_single.against_name.startswith("single[dapi]")
    single = board.row(gated.over_single.against)
    assert single.seeds == (0, 1)  # the teacher, which has another backbone and one seed, is no baseline
    assert gated.over_single.value == pytest.approx(
        gated.metrics["macro_f1"].mean - single.metrics["macro_f1"].mean, abs=1e-6
    )
    assert gated.over_no_kd is None
    distilled = board.rows[4]
    assert distilled.over_no_kd.against_name == "independent"
    assert distilled.over_no_kd.exact
    one = next(s for s in board.row(distilled.over_no_kd.against).sources if s.seed == 0)
    assert distilled.over_no_kd.value == pytest.approx(
        distilled.metrics["macro_f1"].mean - one.metrics["macro_f1"], abs=1e-6
    )


def test_teachers_are_counted_once(shared_report):
    (board,) = shared_report.boards
    teaching = board.rows[4].teaching
    assert (teaching.teachers, teaching.train_seconds, teaching.params, teaching.macs) == (1, 50.0, 9000, 18000)
    assert board.rows[0].teaching is None


@pytest.mark.parametrize("shared", [True, False])
def test_teachers_are_judged_and_counted(store, add, shared):
    """A teacher that guesses, beside an untaught student that reads the same modality and does not."""
    pulls = {"logits": Pull(weight=0.5, ratios={0: 1.0, 4: 0.25})}
    for seed in (0, 1):
        teacher = fake_trial(0 if shared else seed, fusion="single", backbone="big", modalities=("dapi",))
        if not store.has(teacher.id):
            add(store, teacher, skill=0.0)
        add(store, fake_trial(seed, fusion="single", modalities=("dapi",)), skill=2.0)
        draft = fake_trial(seed, kd="logits", teachers=(teacher,))
        method = draft.method.model_copy(update={"teacher_seeds": "fixed" if shared else "student"})
        add(store, Trial(protocol=draft.protocol, method=method, seed=seed), skill=4.0, pulls=pulls)
    (board,) = [b for b in build([store], FAST) if any(r.kd == "logits" for r in b.rows)]
    (taught,) = [r for r in board.rows if r.kd == "logits"]
    (score,) = taught.teaching.scores
    assert (score.name, score.worse_than_student, score.beats_untaught) == ("single[dapi]", True, False)
    assert (taught.pulls, taught.teaching.sets) == ({"logits": (1.0, 0.25)}, 1 if shared else 2)
    said = " ".join(board.notes)
    assert "A teacher is worse than its student" in said
    assert "does not beat the best untaught student" in said
    assert ("One set of teachers for all seeds" in said) == shared


def test_a_teacher_in_no_store_is_said_to_be_unknown(store, add):
    teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",))
    add(store, fake_trial(0, kd="logits", teachers=(teacher,)))
    (board,) = build([store], FAST)
    assert board.rows[0].teaching.train_seconds is None
    assert board.rows[0].teacher_backbones == ("?",)


def test_which_seeds_are_missing_counts_not_how_many(store, add):
    for seed in (0, 1):
        add(store, fake_trial(seed))
        add(store, fake_trial(seed, fusion="gated"))
    for seed in (1, 2):
        add(store, fake_trial(seed, fusion="other"))
    (board,) = build([store], FAST)
    assert board.seeds == (0, 1)
    assert [(r.name, r.status) for r in board.rows][2] == ("other", "incomplete")
    assert board.rows[2].missing_seeds == (0,)
    assert "--seeds 1 ranks them all" in board.notes[0]
    (board,) = build([store], Options(seeds=(1,), resamples=200))
    assert {r.status for r in board.rows} == {"ranked"}
    assert {r.seeds for r in board.rows} == {(1,)}
    assert any("One seed" in note for note in board.notes)


def test_a_row_with_more_seeds_is_judged_on_those_of_the_board(store, add):
    for seed in (0, 1, 2):
        add(store, fake_trial(seed))
    for seed in (0, 1):
        add(store, fake_trial(seed, fusion="gated"))
    (board,) = build([store], Options(seeds=(0, 1), resamples=200))
    assert {r.seeds for r in board.rows} == {(0, 1)}


def test_one_row_with_more_seeds_leaves_no_other_unranked(store, add):
    for seed in (0, 1):
        for fusion in ("a", "b", "c"):
            add(store, fake_trial(seed, fusion=fusion))
    for seed in range(4):
        add(store, fake_trial(seed, fusion="mine"))
    (board,) = build([store], FAST)
    assert board.seeds == (0, 1)
    assert {(r.status, r.seeds) for r in board.rows} == {("ranked", (0, 1))}
    assert any("seeds 2, 3, which fewer rows have" in note for note in board.notes)


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        ([], ()),
        ([(0, 1), (0, 1), (0, 1, 2)], (0, 1)),
        ([(0, 1), (0, 1, 2)], (0, 1, 2)),
        ([(1, 2), (0, 1)], (0, 1)),
    ],
)
def test_usual_seeds(sets, wanted):
    assert usual_seeds(sets) == wanted


def test_mixed_keys_are_separate_boards_and_never_one(store, add):
    add(store, fake_trial(0))
    add(store, fake_trial(0, budget=Budget(epochs=3)))
    add(store, fake_trial(0, fusion="single", modalities=("dapi",), image_size=32))
    made = build([store], FAST)
    assert len(made) == 3
    assert all([r.rank for r in b.rows] == [1] for b in made)
    with pytest.raises(ComparabilityError, match=r"budget\.epochs: \d+ != \d+"):
        build([store], Options(together=True))
    chosen = build([store], Options(where={"budget.epochs": "3"}, together=True, resamples=200))
    assert [b.key.budget.epochs for b in chosen] == [3]
    assert [b.digest for b in build([store], Options(keys=(made[1].digest[:6],)))] == [made[1].digest]
    with pytest.raises(UsageError, match=r"Did you mean 'budget\.epochs'"):
        build([store], Options(where={"epochs": "3"}))
    with pytest.raises(UsageError, match="none does"):
        build([store], Options(keys=("zzzz",)))


def test_ranks_follow_means_and_the_best_are_marked(store):
    for fusion, skill in (("x", 4.0), ("y", 4.0), ("z", 0.5)):
        for seed in (0, 1, 2):
            p = fake_predictions(seed, cells=300, skill=skill)
            fake_record(store, fake_trial(seed, fusion=fusion), predictions=p)
    (board,) = build([store], FAST)
    found = {r.name: (r.rank, r.among_best) for r in board.rows}
    assert found == {"x": (1, True), "y": (1, True), "z": (3, False)}
    twin, worst = board.comparisons
    assert (twin.value, twin.p, twin.p_best) == (0.0, 1.0, 1.0)
    assert worst.low > 0
    assert worst.p <= worst.p_best <= worst.p_holm < 0.05
    (board,) = build([store], Options(statistics=False))
    assert [r.rank for r in board.rows] == [1, 1, 3]
    assert board.rows[0].among_best is None


def test_one_seed_is_no_verdict_but_a_row_of_one_may_borrow(store, add):
    """Skills differ by much; a board of one seed still cannot say that the methods do."""
    for seed in (0, 1, 2):
        for fusion, skill in (("single", 0.3), ("y", 1.5), ("z", 1.4)):
            modalities = {"modalities": ("dapi",)} if fusion == "single" else {}
            add(store, fake_trial(seed, fusion=fusion, **modalities), skill=skill, cells=200)
    add(store, fake_trial(0, fusion="late"), skill=6.0, cells=200)
    (board,) = build([store], FAST)
    (late,) = (r for r in board.rows if r.name == "late")
    assert late.status == "incomplete"
    assert late.over_single.p_holm < 0.05
    assert late.over_single.beyond_noise
    (alone,) = build([store], replace(FAST, seeds=(0,)))
    (row,) = (r for r in alone.rows if r.name == "late")
    old, new = late.metrics["accuracy"], row.metrics["accuracy"]
    assert old.high - old.low > new.high - new.low, "with the seeds' variance of others, not over cells only"
    assert row.over_single.p is None
    assert not any(r.over_single.beyond_noise or r.among_best for r in alone.rows if r.over_single)
    assert alone.detectable is None
    assert any(n.startswith("One seed: intervals are over test cells only") for n in alone.notes)
    assert "†" not in render(Report(boards=(alone,)), "plain").decode()


def test_stars_are_corrected_over_their_column(store):
    """Noise rows beside one gain: p below 0.05 alone is no star."""
    teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",))
    fake_record(store, teacher, predictions=fake_predictions(0, cells=120))
    for i, fusion in enumerate(("a", "b", "c", "d", "e")):
        for seed in (0, 1, 2):
            for kd in (None, "logits"):
                trial = fake_trial(seed, fusion=fusion, kd=kd, teachers=(teacher,) if kd else ())
                skill = 1.0 + (kd is not None) * (2.0 if fusion == "a" else 0.1 * i)
                p = fake_predictions(seed, cells=120, skill=skill)
                fake_record(store, trial, predictions=p)
    (board,) = build([store], FAST)
    gains = {r.fusion: r.over_no_kd for r in board.rows if r.over_no_kd}
    assert [g.p_holm for g in gains.values()] == pytest.approx(holm([g.p for g in gains.values()]), abs=1e-8)
    assert all(g.beyond_noise == (g.p_holm < 0.05) for g in gains.values())
    assert gains["a"].beyond_noise


def test_lower_is_better_where_it_is(store):
    for fusion, skill in (("x", 4.0), ("y", 0.5)):
        fake_record(store, fake_trial(fusion=fusion), predictions=fake_predictions(0, cells=300, skill=skill))
    (board,) = build([store], Options(by="nll", resamples=200))
    assert [r.name for r in board.rows] == ["x", "y"]
    assert not board.higher_is_better
    assert board.comparisons[0].value > 0
    with pytest.raises(UsageError, match="macro_f1"):
        Options(by="macro-f1")


def test_same_trial_in_two_stores(tmp_path, add):
    stores = [Store(tmp_path / name) for name in "ab"]
    for s in stores:
        add(s, fake_trial(0))
    found = report(stores, FAST)
    assert [r.n for r in found.boards[0].rows] == [1]
    add(stores[0], fake_trial(1), skill=1.0)
    add(stores[1], fake_trial(1), skill=3.0)
    found = report(stores, FAST)
    assert [r.seeds for r in found.boards[0].rows] == [(0,)]
    assert "irreproducible" in found.notes[0]
    assert [r.record for r in found.refused] == [fake_trial(1).id]


def test_searches_and_examinations(study, examined):
    records = [r for r in study.scan()[0] if r.result.fusion == "gated"]
    folder = study.root / "searches" / "s1"
    folder.mkdir(parents=True)
    budget = {"study": "s1", "trials": 20, "complete": 15, "pruned": 4, "failed": 1, "train_seconds": 9.5,
              "objective": "macro_f1", "sampler": "tpe"}  # fmt: skip
    winner = {"trial_ids": [r.trial.id for r in records], "budget": budget, "number": 3}
    (folder / "winner.json").write_text(json.dumps({"winners": [winner]}))
    (study.root / "searches" / "s2").mkdir()
    (study.root / "searches" / "s2" / "winner.json").write_text("[]")
    examined(study, records[0], {"dapi": 0.2, "brightfield": 0.5, "brightfield+dapi": 0.9})
    assert build([study], FAST)[0].rows[0].missing_modalities is None  # one seed of two
    examined(study, records[1], {"dapi": 0.4, "brightfield": 0.2, "brightfield+dapi": 0.9})
    row = build([study], FAST)[0].rows[0]
    assert (row.search.study, row.search.trials) == ("s1", 20)
    assert row.missing_modalities.worst == ("dapi",)
    assert row.missing_modalities.worst_macro_f1 == pytest.approx(0.3)
    board = build([study], FAST)[0]
    assert (
        "2 examinations in evaluations/ cannot be checked: made before examinations had a checksum." in board.notes
    )
    path = examination_path(study.root, records[1].trial.id)
    write_examination(path, json.loads(path.read_text()))
    board = build([study], FAST)[0]
    assert board.rows[0].missing_modalities is not None
    assert any(note.startswith("1 examination in evaluations/ cannot") for note in board.notes)
    for spoilt, why in (
        (path.read_text().replace("0.4", "0.9"), "does not match its checksum"),
        (path.read_text()[:-9], "is damaged"),
        ("{}", "is of another record"),
    ):
        path.write_text(spoilt)
        board = build([study], FAST)[0]
        assert board.rows[0].missing_modalities is None
        assert any(f"evaluations/{path.name}" in note and why in note for note in board.notes), board.notes


def test_sealed_records_are_counted_and_left_out(study):
    seen = {name: a for name, a in fake_predictions(7).items() if name.startswith("val_")}
    fake_record(study, fake_trial(7).seal(), predictions=seen)
    for _ in range(2):  # read, then known
        found = report([study], FAST)
        assert any("sealed" in note for note in found.notes)
        assert not found.refused


def test_details(shared_report):
    (board,) = shared_report.boards
    d = board.rows[0].details
    assert list(d.per_class) == list(board.key.classes)
    f1 = [c.f1 for c in d.per_class.values()]
    assert statistics.fmean(f1) == pytest.approx(board.rows[0].metrics["macro_f1"].mean)
    assert np.sum(d.confusion) == 2 * board.test_cells
    assert sum(b.cells for b in d.reliability) == 2 * board.test_cells


def test_donors_are_resampled_whole(store):
    donors, hard = np.arange(300) // 30, np.arange(10) < 4
    for seed in (0, 1):
        p = fake_predictions(seed, cells=300, skill=2.0)
        # whole donors are hard, for every seed: errors come in clumps
        p["test_probabilities"][hard[donors]] = p["test_probabilities"][hard[donors]][:, [1, 2, 0]]
        fake_record(store, fake_trial(seed), predictions=p)
    (plain,) = build([store], FAST)
    for seed in (0, 1):
        q = dict(store.scan()[0][seed].predictions) | {"test_groups": donors}
        fake_record(Store(store.root.parent / "grouped"), store.scan()[0][seed].trial, predictions=q)
    (grouped,) = build([store.root.parent / "grouped"], FAST)
    assert (plain.clusters, grouped.clusters, grouped.grouped) == (300, 10, True)

    def width(b):
        return b.rows[0].metrics["macro_f1"].high - b.rows[0].metrics["macro_f1"].low

    assert width(grouped) > 1.3 * width(plain)
    assert "Only" not in " ".join(grouped.notes)


def test_methods_of_one_name_are_told_apart_by_what_differs(store):
    base = fake_trial(0)
    for rho, width in ((0.5, 8), (1.0, 8), (0.5, 16)):
        fusion = ComponentSpec(name="independent", params={"rho": rho, "repeats": 1})
        backbone = ComponentSpec(name="tiny", params={"width": width})
        method = Method(fusion=fusion, backbone=backbone)
        fake_record(store, Trial(protocol=base.protocol, method=method))
    fake_record(store, fake_trial(0, fusion="gated"))
    (board,) = build([store], FAST)
    assert {r.name for r in board.rows} == {
        "gated", "independent (rho=0.5, width=8)", "independent (rho=1, width=8)",
        "independent (rho=0.5, width=16)",
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"independent \(rho=1, width=8\)"):
        explain([store], "independent", "gated", FAST)


@pytest.mark.parametrize(
    ("params", "modalities", "name"),
    [
        ({"rho": 0.5, "slots": "batch"}, ("a", "b"), "independent (rho=0.5)"),
        ({"rho": 0.0, "slots": "epoch"}, ("a", "b"), "independent (rho=0, slots=epoch)"),
        ({"rho": 0.5}, ("a",), "independent[a]"),
        ({}, ("a", "b"), "independent"),
    ],
)
def test_rho_is_in_a_name_without_twins(store, params, modalities, name):
    method = Method(fusion=ComponentSpec(name="independent", params=params), backbone=ComponentSpec(name="tiny"))
    fake_record(store, Trial(protocol=fake_trial(modalities=modalities).protocol, method=method))
    (board,) = build([store], FAST)
    assert [r.name for r in board.rows] == [name]


def test_a_policy_is_part_of_the_name_also_where_no_twin_has_none(store):
    teacher = fake_trial(7, fusion="single", modalities=("dapi",))
    fake_record(store, teacher)
    fake_record(store, fake_trial(0, fusion="concat", policies=("modality_dropout", "cutmix")))
    fake_record(store, fake_trial(0, kd="logits", teachers=(teacher,), policies=("cutmix",)))
    board = next(b for b in build([store], FAST) if len(b.key.modalities) == 2)
    names = {r.name for r in board.rows if r.status == "ranked"}
    assert names == {"concat + modality_dropout + cutmix", "independent + logits + cutmix"}


def test_names_say_no_more_than_is_needed():
    assert distinct([{"f.a": "1", "f.b": "1", "f.c": "x"}, {"f.a": "1", "f.b": "2", "f.c": "y"}]) == [
        " (b=1)", " (b=2)"
    ]  # fmt: skip
    # one that tells all apart is better than two that do so together
    assert distinct([{"a": "1", "c": "1"}, {"a": "1", "c": "2"}, {"a": "2", "c": "3"}]) == [
        " (c=1)", " (c=2)", " (c=3)"
    ]  # fmt: skip
    # two components with a parameter of one name keep theirs
    assert distinct([{"a": "0.316228"}, {"a": "4.12345"}]) == [" (a=0.316)", " (a=4.12)"]
    assert distinct([{"a": "0.316228"}, {"a": "0.316229"}]) == [" (a=0.316228)", " (a=0.316229)"]
    assert distinct([{"x.w": "1", "y.w": "1"}, {"x.w": "2", "y.w": "1"}, {"x.w": "1", "y.w": "2"}])[0] == (
        " (x.w=1, y.w=1)"
    )
    assert distinct([{"a": "1"}, {}]) == [" (a=1)", ""]
    assert distinct([{}, {}]) == ["", ""]


def test_unequal_search_budgets_are_said(study):
    folder = study.root / "searches" / "s1"
    folder.mkdir(parents=True)
    ids = [r.trial.id for r in study.scan()[0] if r.result.fusion == "gated"]
    budget = {"study": "s1", "trials": 20}
    (folder / "winner.json").write_text(json.dumps({"winners": [{"trial_ids": ids, "budget": budget}]}))
    (board,) = build([study], FAST)
    assert any("none, 20 trials" in note for note in board.notes)


def test_across_data_sets(store, add):
    for fingerprint in ("a" * 16, "b" * 16, "c" * 16):
        for fusion, skill in (("x", 3.0), ("y", 2.0), ("z", 0.5)):
            add(store, fake_trial(0, fusion=fusion, fingerprint=fingerprint), skill=skill, cells=60)
    found = report([store], FAST)
    (across,) = found.across
    assert across.methods[0].startswith("x")
    assert len(across.boards) == 3
    assert across.mean_ranks == pytest.approx((1, 2, 3))
    assert across.friedman_chi2 == pytest.approx(6.0)
    assert across.improvement[0].probability == 1.0
    assert not report([store], Options(keys=(across.boards[0],), resamples=200)).across


def over_two(store, rows):
    """Rows (fusion, rho, lr, name of its search) of each of two data sets; seeds differ, so nothing is equal."""
    for n, (fingerprint, own) in enumerate(zip(("a" * 16, "b" * 16), rows, strict=True)):
        found = []
        for i, (fusion, rho, lr, search) in enumerate(own):
            base = fake_trial(0, fingerprint=fingerprint)
            params = {} if rho is None else {"rho": rho}
            method = Method(
                fusion=ComponentSpec(name=fusion, params=params),
                backbone=ComponentSpec(name="tiny"),
                recipe=Recipe(lr=lr),
            )
            trial = Trial(protocol=base.protocol, method=method)
            fake_record(store, trial, predictions=fake_predictions(10 * n + i, skill=3 - i, cells=60))
            if search:
                found.append({"trial_ids": [trial.id], "budget": {"study": search, "trials": 9}})
        folder = store.root / "searches" / fingerprint[0]
        folder.mkdir(parents=True)
        (folder / "winner.json").write_text(json.dumps({"winners": found}))
    return report([store], FAST).across


OTHERS = [("early", None, 0.01, ""), ("late", None, 0.01, ""), ("gmu", None, 0.01, "")]


def test_rows_with_other_parameters_are_other_methods_across_data_sets(store):
    mine = ("independent", 0.0, 0.01, ""), ("independent", 1.0, 0.01, "")
    (found,) = over_two(store, [[*OTHERS, mine[0]], [*OTHERS, mine[1]]])
    assert {m.split(" (")[0] for m in found.methods} == {"early", "late", "gmu"}
    (note,) = found.notes
    assert note.endswith("since parameters differ or several rows are called so: independent (tiny).")
    text = render(Report(boards=(), across=(found,)), "plain").decode()
    assert "or several rows are called so: independent (tiny)" in text


def test_parameters_tell_methods_of_one_name_apart_across_data_sets(store):
    both = [*OTHERS[:1], ("independent", 0.0, 0.01, ""), ("independent", 1.0, 0.02, "")]
    (found,) = over_two(store, [both, [(f, r, 0.02, s) for f, r, _, s in both]])
    assert set(found.methods) == {"early (tiny)", "independent (tiny) (rho=0.0)", "independent (tiny) (rho=1.0)"}
    assert found.notes == (
        "With another training recipe on each data set: early (tiny), independent (tiny) (rho=0.0).",
    )


def test_winners_of_searches_are_one_method_whatever_was_found(store):
    rows = [[*OTHERS[:1], ("independent", rho, 0.01, "s"), ("independent", 0.5, 0.01, "")] for rho in (0.1, 0.9)]
    (found,) = over_two(store, rows)
    assert set(found.methods) == {"early (tiny)", "independent (tiny) (rho=0.5)", "independent (tiny)"}
    assert found.notes == (
        "Searched for on each data set, and so with parameters of its own on each: independent (tiny).",
    )


def test_a_searched_twin_does_not_hide_the_method_across_data_sets(store):
    """`early` with the common recipe and `early` with a recipe of its own search: both are compared."""
    rows = [[*OTHERS, ("early", None, lr, "s")] for lr in (0.02, 0.03)]
    (found,) = over_two(store, rows)
    assert set(found.methods) == {"early (tiny)", "early (tiny) (search=own)", "late (tiny)", "gmu (tiny)"}


def test_equal_bytes_and_statistics_are_kept(study, monkeypatch):
    first = report([study], FAST)
    again = report([study], FAST)
    afresh = report([study], replace(FAST, index=False))
    assert first.model_dump_json() == again.model_dump_json() == afresh.model_dump_json()
    assert str(study.root) not in first.model_dump_json()
    monkeypatch.setattr(BoardStatistics, "_resample", lambda self: pytest.fail("was computed again"))
    assert report([study], FAST).model_dump_json() == first.model_dump_json()
    with pytest.raises(pytest.fail.Exception):
        report([study], replace(FAST, resamples=300))


def test_predictions_of_other_cells_are_refused(study, add):
    trial = fake_trial(0, fusion="cheat")
    p = fake_predictions(0, skill=4.0)
    p["test_cells"] = p["test_cells"][::-1].copy()
    add(study, trial, predictions=p)
    found = report([study], FAST)
    assert "cheat" not in [r.fusion for r in found.boards[0].rows]
    assert [r.record for r in found.refused] == [trial.id]
    assert "other test cells" in found.refused[0].reason


@pytest.mark.parametrize("groups", [np.zeros(300, dtype=np.int64), np.arange(300) // 150])
def test_one_record_does_not_decide_for_all_which_cells_go_together(store, groups):
    for seed in (0, 1):
        for fusion in ("early", "gated"):
            p = fake_predictions(10 * seed + len(fusion), cells=300)
            fake_record(store, fake_trial(seed, fusion=fusion), predictions=p)
    (before,) = build([store], FAST)
    fake_record(
        store, fake_trial(0, fusion="mine"), predictions=fake_predictions(9, cells=300) | {"test_groups": groups}
    )
    (after,) = build([store], FAST)
    assert (after.clusters, after.grouped) == (300, False)
    assert [r.metrics for r in after.rows if r.fusion != "mine"] == [r.metrics for r in before.rows]
    assert any("disagree about which donor" in note for note in after.notes)
    assert explain([store], "gated", "early", FAST).low == explain([store], "early", "gated", FAST).high * -1


@pytest.mark.parametrize(("donors", "judged"), [(1, False), (2, False), (3, True)])
def test_two_donors_are_too_few_for_an_interval(store, donors, judged):
    for fusion in ("gated", "independent"):
        for seed in (0, 1):
            p = fake_predictions(seed, skill=1.0 + (fusion == "gated"))
            fake_record(store, fake_trial(seed, fusion=fusion),
                        predictions=p | {"test_groups": np.arange(30) % donors})  # fmt: skip
    (board,) = build([store], Options(resamples=200, verify="files"))
    assert {r.metrics["macro_f1"].low is not None for r in board.rows} == {judged}
    assert any("too few groups" in n for n in board.notes) == (not judged)
    if not judged:
        with pytest.raises(ComparabilityError, match="too few groups"):
            effects([store], "fusion", Options(resamples=200, verify="files"), "independent")


RISING = [0.5, 0.55, 0.6, 0.62, 0.65, 0.68, 0.7, 0.72]
LEVEL = [0.5, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("histories", "said"),
    [
        ({"a": RISING, "b": RISING}, "2 of 2 rows were still improving when training ended"),
        ({"a": RISING, "b": LEVEL}, "Rows differ in whether training had levelled off (1 plateau, 1 still"),
        ({"a": LEVEL, "b": LEVEL}, ""),
        ({"a": RISING, "b": [0.5]}, ""),
    ],
)
def test_a_board_warns_where_training_had_not_levelled_off(store, add, histories, said):
    for fusion, values in histories.items():
        for seed in (0, 1):
            add(store, fake_trial(seed, fusion=fusion), validation=values)
    options = Options(statistics=False, details=False, verify="quick")
    first = report([store], options).boards[0]
    notes = [n for n in first.notes if "levelled off" in n or "still improving" in n]
    assert len(notes) == bool(said)
    assert said in "".join(notes)
    assert report([store], options).boards[0] == first, "the index has what the histories say"
    told = {r.fusion: r.levelled.verdict for r in first.rows}
    names = {8: {True: "still improving", False: "plateau"}, 1: {False: "too short to tell"}}
    assert told == {f: names[len(v)][v is RISING] for f, v in histories.items()}


def test_a_board_says_how_its_order_moved_during_training(store, add):
    for fusion, values in (("a", LEVEL), ("b", RISING)):
        add(store, fake_trial(0, fusion=fusion), validation=values)
    (board,) = report([store], Options(statistics=False, details=False, verify="quick")).boards
    assert any(
        "1 of 1 pair of rows stood the other way round after half of training (Kendall's tau -1.00), 1 after" in n
        for n in board.notes
    )


def test_a_board_of_an_older_schema_is_named(shared_report, tmp_path):
    path = tmp_path / "board.json"
    path.write_text(shared_report.model_dump_json())
    assert read_report(path) == Report.model_validate_json(path.read_bytes())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    with pytest.raises(UsageError, match="has schema version 1, this release reads 2: make it again"):
        read_report(path)


def test_the_default_margin_is_one():
    assert Options().margin == defaults.MARGIN
