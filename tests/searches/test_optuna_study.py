"""A study is the same after every start: proposals, values, states, and what is proposed next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.errors import RecordError, UsageError
from wbcbench.records.store import Store
from wbcbench.scheduling.source import Outcome
from wbcbench.searches.files import search_budgets
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.report import write_report
from wbcbench.searches.search import Search
from wbcbench.spec import Trial

Make = Callable[..., Search]


Run = Callable[..., tuple[Study, Any]]


def lived(study: Study) -> list[Any]:
    return [(t.number, t.state.name, t.values, t.params, t.intermediate_values) for t in study.optuna.trials]


def proposed(search: Search) -> list[tuple[Any, str]]:
    return [(p.params, p.trial_id) for p in search.folder.proposals()]


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("tpe", p) for p in ("none", "asha", "hyperband", "median")]
    + [("nsga2", "none"), ("random", "asha"), ("cmaes", "none"), ("cmaes", "median")],
)
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(
    search_of: Make, sampler: str, pruner: str, run: Run, pretender: Any
) -> None:
    settings = {"sampler": sampler, "pruner": pruner, "trials": 24, "seed": 5}
    whole, paid = run(search_of("a", **settings))
    assert len(lived(whole)) == 24
    broken = search_of("b", **settings)
    trained: list[str] = []
    for stop in (3, 12, 5, 9):  # epochs: within the first trial, between two, within others
        runner = pretender(broken.store, stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            runner.run(broken.source(broken.study()))
        trained += runner.trained
    again, rest = run(broken)
    assert proposed(broken) == proposed(search_of("a", **settings))
    assert lived(again) == lived(whole)
    assert len(trained + rest.trained) <= len(paid.trained) + 4, "only what was interrupted is begun again"
    if pruner in ("asha", "median"):
        assert whole.counts()["pruned"] > 0
    if sampler == "tpe":
        assert lived(whole) != lived(run(search_of("c", **{**settings, "seed": 6}))[0])


@pytest.mark.slow
def test_gaussian_processes_go_on_too(search_of: Make, run: Run) -> None:
    settings = {"sampler": "gp", "trials": 13}
    whole, _ = run(search_of("a", **settings))
    run(search_of("b", **{**settings, "trials": 11}))
    again, _ = run(search_of("b", **settings))
    assert lived(again) == lived(whole)


def test_a_study_lived_again_is_the_study(search_of: Make, run: Run) -> None:
    search = search_of(pruner="asha", trials=12)
    study, runner = run(search)
    again = Study(search.folder.spec(), search.folder, search.store)
    assert lived(again) == lived(study)
    assert again.counts() == study.counts()
    assert not again.open
    trial, values = study.ask()
    trial_again, values_again = again.ask()
    assert (trial.number, values) == (trial_again.number, values_again)
    _, second = run(search)
    assert second.trained == [], "nothing is left to do"
    assert runner.trained == list(dict.fromkeys(runner.trained))


def test_more_trials_go_on_where_fewer_ended(search_of: Make, run: Run) -> None:
    run(search_of("a", trials=5))
    more, runner = run(search_of("a", trials=12))
    whole, _ = run(search_of("b", trials=12))
    assert lived(more) == lived(whole)
    assert len(runner.trained) == 7


def test_values_come_from_records_and_from_nowhere_else(search_of: Make, run: Run) -> None:
    search = search_of(trials=4)
    study, _ = run(search)
    for path in search.folder.path.rglob("*.json"):
        if path.parent.name == "proposals":
            assert set(json.loads(path.read_text())) == {"number", "params", "trial_id", "error", "checksum"}
    for trial in study.optuna.trials:
        record = search.store.load(study.asked[trial.number].proposal.trial_id)
        assert trial.values == [record.result.metrics["val"]["macro_f1"]]
        assert record.result.status == "sealed"


def test_pruned_trials_are_marked_and_have_no_record(search_of: Make, run: Run) -> None:
    search = search_of(pruner="asha", trials=12)
    study, _ = run(search)
    pruned = [t for t in study.optuna.trials if t.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        trial_id = study.asked[trial.number].proposal.trial_id
        mark = search.folder.pruned(trial_id)
        assert mark is not None
        assert len(mark.history) == mark.epoch + 1 == len(trial.intermediate_values) < study.spec.epochs
        assert trial.value == mark.history[-1]["val_macro_f1"]
        assert not search.store.has(trial_id)
        assert not (search.store.root / "work" / trial_id).exists()


def test_another_study_may_finish_what_one_has_pruned(search_of: Make, run: Run) -> None:
    pruning, _ = run(search_of(pruner="asha", trials=10, sampler="random"))
    patient, _ = run(search_of(pruner="none", trials=10, sampler="random"))
    assert pruning.counts()["pruned"] > 0
    assert patient.counts()["complete"] == 10
    again = search_of(pruner="asha", trials=10, sampler="random").study()
    assert lived(again) == lived(pruning)


def test_a_failed_trial_counts_as_failed_now_and_later(search_of: Make, run: Run) -> None:
    def fails(trial: Trial) -> bool:
        return trial.method.recipe.lr > 5e-3

    study, _ = run(search_of(trials=12, sampler="random"), fails=fails)
    counts = study.counts()
    assert 0 < counts["failed"] < 12
    assert counts["complete"] + counts["failed"] == 12
    search = search_of(trials=12, sampler="random")
    assert lived(search.study()) == lived(study)
    assert len({t.params["training.lr"] > 5e-3 for t in study.optuna.trials if t.state.name == "FAIL"}) == 1


def test_an_undefined_value_is_a_failure(search_of: Make, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    from wbcbench.searches.settings import Objective

    monkeypatch.setattr(Objective, "values", lambda self, record: None)
    study, _ = run(search_of(trials=3))
    assert study.counts() == {"trials": 3, "complete": 0, "pruned": 0, "failed": 3}


def test_the_same_suggestion_is_not_paid_twice(search_of: Make, run: Run) -> None:
    space = {
        "training.lr": "choice(1e-3,3e-3)", "training.weight_decay": 0.1,
        "training.label_smoothing": "choice(0,0.1)",
    }  # fmt: skip
    study, runner = run(search_of(trials=15, sampler="random", space=space))
    assert study.counts()["complete"] == 15
    assert len(runner.trained) == len(set(runner.trained)) == 4
    assert study.seconds == 4 * 2.0
    by_trial: dict[str, set[float]] = {}
    for trial in study.optuna.trials:
        by_trial.setdefault(study.asked[trial.number].proposal.trial_id, set()).add(trial.value)
    assert all(len(values) == 1 for values in by_trial.values())


def test_two_jobs_share_a_suggestion_that_is_still_running(search_of: Make, pretender: Any) -> None:
    space = {"training.lr": "choice(1e-3,3e-3)", "training.weight_decay": 0.1, "training.label_smoothing": 0}
    search = search_of(trials=6, sampler="random", space=space)
    study = search.study()
    source, runner = search.source(study), pretender(search.store)
    first, second = source.next(), source.next()
    assert first is not None
    assert second is not None
    assert first != "wait"
    assert second != "wait"
    assert first.trial.id != second.trial.id
    assert source.next() is None
    assert study.counts()["trials"] == 0
    for planned in (second, first):
        source.ended(runner.one(planned, source))
    assert study.counts()["complete"] == 6
    assert source.next() is None


def test_an_epoch_told_twice_is_heard_once(search_of: Make) -> None:
    search = search_of(trials=1, pruner="asha")
    source = search.source(study := search.study())
    planned = source.next()
    assert planned is not None
    assert planned != "wait"
    for _ in range(2):
        assert not source.epoch(planned, 0, {"epoch": 0, "val_macro_f1": 0.5})
    assert source.epoch(planned, 1, {"epoch": 1, "val_macro_f1": None}) is False
    assert study.optuna.trials[0].intermediate_values == {1: 0.5}


def test_teachers_come_first_once_and_unsealed(search_of: Make, run: Run) -> None:
    search = search_of(trials=4, flags={"fusion": "independent", "kd": "logits"})
    study, runner = run(search)
    teachers = [p.trial for p in search.base.trials if p.role == "teacher"]
    assert runner.trained[:2] == [t.id for t in teachers]
    assert len(runner.trained) == 6
    assert not any(t.sealed for t in teachers)
    assert study.counts()["complete"] == 4


def test_a_student_waits_for_its_teachers(search_of: Make, pretender: Any) -> None:
    search = search_of(trials=4, flags={"fusion": "independent", "kd": "logits"})
    source, runner = search.source(search.study()), pretender(search.store)
    teachers = [source.next(), source.next()]
    assert source.next() == "wait"
    for planned in teachers:
        assert planned is not None
        assert planned != "wait"
        source.ended(runner.one(planned, source))
    student = source.next()
    assert student is not None
    assert student != "wait"
    assert student.trial.sealed


def test_a_failed_teacher_ends_the_search_and_fails_no_proposal(search_of: Make, run: Run, pretender: Any) -> None:
    search = search_of(trials=4, flags={"fusion": "independent", "kd": "logits"})
    study = search.study()
    source = search.source(study)
    pretender(search.store, fails=lambda t: not t.sealed).run(source)
    assert "Teacher" in source.broken
    assert study.counts()["failed"] == 0
    again, _ = run(search)
    assert again.counts()["complete"] == 4


def test_a_budget_of_seconds_ends_the_search(search_of: Make, run: Run) -> None:
    study, _ = run(search_of(trials=50, sampler="random", budget_seconds=7.0))
    assert study.counts()["trials"] == 4  # two seconds each: three are not enough
    again, runner = run(search_of(trials=50, sampler="random", budget_seconds=7.0))
    assert runner.trained == []
    assert again.seconds == 8.0


def test_parameters_that_exclude_each_other_fail_without_training(search_of: Make, run: Run) -> None:
    # Policy or fusion refuses while planning: here a student whose optimiser the distiller cannot use.
    search = search_of(
        trials=8, sampler="random",
        flags={"fusion": "early", "kd": "logits+dot", "training": {"optimiser": "sgd"}},
        space={"training.optimiser": "choice(adamw,sgd)"},
    )  # fmt: skip
    study, runner = run(search)
    counts = study.counts()
    assert counts["failed"] > 0
    assert counts["complete"] > 0
    assert len(runner.trained) == counts["complete"] + 2
    assert lived(search.study()) == lived(study)


def test_a_missing_or_damaged_proposal_is_refused_by_name(search_of: Make, run: Run) -> None:
    search = search_of(trials=3)
    run(search)
    path = search.folder.path / "proposals" / "00001.json"
    text = path.read_text()
    path.write_text(text[:20])
    with pytest.raises(RecordError, match=r"00001\.json"):
        search.study()
    path.unlink()
    with pytest.raises(RecordError, match="number 1 is missing"):
        search.study()
    path.write_text(text)
    assert search.study().counts()["complete"] == 3


def test_a_name_belongs_to_one_study(search_of: Make, run: Run) -> None:
    run(search_of(trials=1, name="mine"))
    run(search_of(trials=2, name="mine"))
    with pytest.raises(UsageError, match="sampler"):
        search_of(trials=1, name="mine", sampler="random").study()


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ({"objective": "macro_f1,macs", "pruner": "asha"}, {}, "several objectives"),
        ({"objective": "macs", "pruner": "median"}, {}, "not measured per epoch"),
        ({"objective": "macro_f2"}, {}, "Did you mean 'macro_f1'"),
        ({"objective": "macro_f1,macro_f1"}, {}, "different names"),
        ({"objective": "macro_f1,macs", "sampler": "cmaes"}, {}, "one objective"),
        ({"sampler": "cmaes"}, {"training.class_weighting": "choice(none,sqrt)"}, "numbers only"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    search_of: Make, settings: dict[str, Any], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        search_of(space=space, **settings)


def test_a_study_without_winners_gives_no_budgets(tmp_path: Path) -> None:
    assert search_budgets(Store(tmp_path / "nothing")) == {}


def test_a_lost_outcome_is_read_from_the_store(search_of: Make, pretender: Any) -> None:
    """An executor that says `failed` of a trial whose record is there is not believed."""
    search = search_of(trials=1)
    study = search.study()
    source, runner = search.source(study), pretender(search.store)
    planned = source.next()
    assert planned is not None
    assert planned != "wait"
    runner.one(planned, source)
    source.ended(Outcome(planned, "failed", error="the connection was lost"))
    assert study.counts()["complete"] == 1


def test_a_longer_study_gets_every_plot(search_of: Make, run: Run, tmp_path: Path) -> None:
    search = search_of(trials=30, pruner="median")  # enough unpruned ones for importances
    run(search)
    written = {p.name for p in write_report(search.folder, search.store, tmp_path / "r")}
    assert written == {"report.html", "history.png", "importances.png", "slices.png", "epochs.png"}
    both = search_of(trials=9, objective="macro_f1,nll", sampler="nsga2")
    run(both)
    names = {p.name for p in write_report(both.folder, both.store, tmp_path / "r2")}
    assert {"pareto.png", "history_nll.png", "importances_macro_f1.png"} <= names
