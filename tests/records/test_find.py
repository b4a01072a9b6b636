"""A record by what a person calls it."""

from pathlib import Path

import pytest

from wbcbench.boards import Options, build
from wbcbench.boards.find import find_record, find_records
from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_record, fake_trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path)
    for seed, fusion in ((0, "early"), (1, "early"), (0, "late_prob"), (0, "late_logit")):
        fake_record(found, fake_trial(seed, fusion=fusion))
    return found


def test_by_id_folder_name_and_the_beginning_of_either(store: Store) -> None:
    record = find_record("late_prob", store)
    assert record.result.fusion == "late_prob"
    for text in (record.trial.id, record.trial.id[:8], str(record.path), "late_p"):
        assert find_record(text, store).trial.id == record.trial.id
    assert find_record("ear", store).result.fusion == "early"


def test_of_several_seeds_the_best_on_validation_is_meant(store: Store) -> None:
    scores = {
        r.trial.id: r.result.metrics["val"]["macro_f1"] for r in store.scan()[0] if r.result.fusion == "early"
    }
    assert len(scores) == 2
    assert find_record("early", store).trial.id == max(scores, key=lambda i: scores[i] or 0)


def test_what_tables_show_is_a_name(tmp_path: Path) -> None:
    """One modality, policies, and what boards add where two rows would share a name."""
    store = Store(tmp_path)
    trials = {
        "early[dapi] + logits": fake_trial(kd="logits", fusion="early", modalities=("dapi",)),
        "gated + cutmix": fake_trial(fusion="gated", policies=("cutmix",)),
        "late_prob (tiny)": fake_trial(fusion="late_prob"),
        "late_prob (large)": fake_trial(fusion="late_prob", backbone="large"),
    }
    for trial in trials.values():
        fake_record(store, trial)
    shown = {r.name for board in build([store], Options(resamples=100)) for r in board.rows}
    assert shown == set(trials)
    for name, trial in trials.items():
        assert find_record(name, store).trial == trial, name
    assert find_record("early + logits", store).trial == trials["early[dapi] + logits"]
    with pytest.raises(UsageError, match="Several methods") as refused:
        find_record("late_prob", store)
    for name, backbone in (("late_prob (tiny)", "tiny"), ("late_prob (large)", "large")):
        assert f"{trials[name].id} late_prob, seed 0, backbone {backbone}; " in str(refused.value)
    assert "epochs (key " in str(refused.value)


def test_a_name_may_mean_every_seed_and_an_id_means_one(store: Store) -> None:
    assert [r.result.seed for r in find_records("early", store)] == [0, 1]
    one = find_record("early", store)
    for text in (one.trial.id, one.path):
        assert [r.trial.id for r in find_records(text, store)] == [one.trial.id]
    with pytest.raises(UsageError, match="Matches"):
        find_records("late", store)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("late", "Matches: late_logit, late_prob"),
        ("erly", "Did you mean 'early'"),
        ("", "Methods here: early, late"),
    ],
)
def test_what_is_there_is_said_where_nothing_or_too_much_is_meant(store: Store, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_record(text, store)


def test_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Name a store"):
        find_record("early", Store(tmp_path))
