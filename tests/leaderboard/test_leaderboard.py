import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from wbcbench.cli.leaderboard import command
from wbcbench.leaderboard.render import render_csv, render_markdown
from wbcbench.leaderboard.table import boards
from wbcbench.records.store import Store
from wbcbench.spec import Budget
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def add(store, trial, skill=2.0, **more):
    p = fake_predictions(trial.seed, skill=skill)
    return fake_record(store, trial, predictions=p, **more)


def study(store):
    teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",))
    add(store, teacher, skill=3.0)
    for seed in (0, 1):
        add(store, fake_trial(seed), skill=1.0)
        add(store, fake_trial(seed, fusion="gated"), skill=2.0, provider="stranger")
    add(store, fake_trial(0, kd="logits", teachers=(teacher,)), skill=4.0)
    return store.scan()[0]


def test_rows(store):
    (board,) = boards(study(store))
    rows = board.rows
    assert rows["method"].tolist() == ["gated", "independent", "single[dapi]", "independent"]
    assert rows["status"].tolist() == ["ranked", "ranked", "reference", "incomplete"]
    assert rows["rank"].fillna(0).tolist() == [1, 2, 0, 0]
    assert rows["n"].tolist() == [2, 2, 1, 1]
    assert rows["teachers"].tolist() == ["", "", "", "big"]
    assert rows["provider"].tolist() == ["stranger", "", "", ""]
    f1 = [r.result.metrics["test"]["macro_f1"] for r in store.scan()[0] if r.result.fusion == "gated"]
    assert rows["macro_f1"][0] == pytest.approx(sum(f1) / 2)
    assert rows["macro_f1_sd"][0] == pytest.approx(abs(f1[0] - f1[1]) / 2**0.5)
    assert rows["macro_f1_sd"].isna().tolist() == [False, False, True, True]


GOLDEN = Path(__file__).parent / "golden"


def masked(text):
    """Without identities, which change with the spec, and without a float's last digits."""
    text = re.sub(r"\d+\.\d{7,}", lambda m: f"{float(m[0]):.6f}", text)
    return re.sub(r"\b[0-9a-f]{16}\b", "ID", text)


@pytest.mark.parametrize(("render", "name"), [(render_markdown, "board.md"), (render_csv, "board.csv")])
def test_golden(store, render, name):
    text = masked(render(boards(study(store))))
    path = GOLDEN / name
    if os.environ.get("WBCBENCH_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_mixed_keys_are_separate_boards(store):
    add(store, fake_trial(0))
    add(store, fake_trial(0, budget=Budget(epochs=3)))
    add(store, fake_trial(0, fusion="single", modalities=("dapi",), image_size=32))
    made = boards(store.scan()[0])
    assert len(made) == 3
    assert {len(b.rows) for b in made} == {1}
    assert all(b.rows["rank"].tolist() == [1] for b in made)


def test_equal_means_share_a_rank(store):
    p = fake_predictions(0)
    for fusion in ("x", "y", "z"):
        fake_record(store, fake_trial(fusion=fusion), predictions=p if fusion != "z" else fake_predictions(1))
    (board,) = boards(store.scan()[0])
    assert sorted(board.rows["rank"].tolist()) in ([1, 1, 3], [1, 2, 2])


def test_same_trial_in_two_stores_counts_once(tmp_path):
    records = [add(Store(tmp_path / name), fake_trial(0)) for name in "ab"]
    (board,) = boards(records)
    assert board.rows["n"].tolist() == [1]


def test_cli_json_with_a_corrupt_record(store):
    records = study(store)
    bad = next(r for r in records if r.result.kd == "logits")
    (bad.path / "predictions.npz").write_bytes(b"no")
    done = CliRunner().invoke(command, ["--store", str(store.root), "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert set(document) == {"boards", "refused"}
    assert document["refused"][0]["path"] == str(bad.path)
    assert "predictions.npz" in document["refused"][0]["reason"]
    (board,) = document["boards"]
    assert board["key"]["dataset"] == "fake"
    assert [r["method"] for r in board["rows"]] == ["gated", "independent", "single[dapi]"]
    assert board["rows"][2]["macro_f1_sd"] is None
    assert board["rows"][0]["seeds"] == [0, 1]
    assert "predictions.npz" in done.stderr


def test_cli_empty_missing_and_file(store, tmp_path):
    run = CliRunner().invoke
    missing = run(command, ["--store", str(store.root)])
    assert missing.exit_code == 2
    assert "wbcbench run" in missing.stderr
    store.root.mkdir()
    empty = run(command, ["--store", str(store.root)])
    assert (empty.exit_code, "wbcbench run" in empty.stdout) == (0, True)
    add(store, fake_trial(0))
    out = tmp_path / "board.md"
    done = run(command, ["--format", "markdown", "-o", str(out)], env={"WBCBENCH_STORE": str(store.root)})
    assert (done.exit_code, done.stdout) == (0, "")
    assert out.read_text().startswith("## fake: brightfield + dapi")
