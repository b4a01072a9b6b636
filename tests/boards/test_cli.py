import json

import pytest

from wbcbench.spec import Budget
from wbcbench.testing.records import fake_trial

ARGS = ("--resamples", "200", "--verify", "files")


def test_json_with_a_corrupt_record(study, invoke):
    bad = next(r for r in study.scan()[0] if r.result.kd == "logits")
    (bad.path / "predictions.npz").write_bytes(b"no")
    code, out, err = invoke("leaderboard", "--store", str(study.root), "--json", *ARGS)
    assert code == 0
    document = json.loads(out)
    assert document["refused"][0]["record"] == bad.trial.id
    assert "predictions.npz" in document["refused"][0]["reason"]
    (board,) = document["boards"]
    assert board["key"]["dataset"] == "fake"
    assert [r["method"] for r in board["rows"]] == ["gated", "independent", "single[dapi]", "single[dapi]"]
    assert board["rows"][0]["seeds"] == [0, 1]
    assert board["rows"][0]["metrics"]["macro_f1"]["sd"] > 0
    assert "predictions.npz" in err


def test_empty_missing_and_file(store, add, tmp_path, invoke, monkeypatch):
    code, _, err = invoke("leaderboard", "--store", str(store.root))
    assert code == 2
    assert "wbcbench run" in err
    store.root.mkdir()
    code, out, _ = invoke("leaderboard", "--store", str(store.root))
    assert (code, "wbcbench run" in out) == (0, True)
    add(store, fake_trial(0))
    out_file = tmp_path / "board.md"
    monkeypatch.setenv("WBCBENCH_STORE", str(store.root))
    code, out, _ = invoke("leaderboard", "--format", "markdown", "-o", str(out_file), *ARGS)
    assert (code, out) == (0, "")
    assert out_file.read_text().startswith("## fake: brightfield + dapi")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--format", "parquet"), "-o FILE"),
        (("--columns", "method,auc"), "auroc"),
        (("--by", "f1"), "macro_f1"),
        (("--where", "dataset"), "FIELD=VALUE"),
        (("--seeds", "a"), "0,1,2"),
        (("--key", "zz"), "none does"),
        (("compair",), "compare"),
        (("compare", "gated", "nothing"), "No row"),
        (("--format", "doc"), "markdown"),
    ],
)
def test_usage(shared, invoke, args, part):
    where = () if args[0] == "compair" else ("--store", str(shared.root))
    code, _, err = invoke("leaderboard", *args, *where)
    assert code == 2
    assert part in err
    assert "Traceback" not in err


def test_different_keys_in_one_table(study, add, invoke):
    add(study, fake_trial(0, budget=Budget(epochs=9)))
    code, out, err = invoke("leaderboard", "--store", str(study.root), "--together")
    assert (code, out) == (3, "")
    assert "budget.epochs: 6 != 9" in err
    code, out, _ = invoke(
        "leaderboard", "--store", str(study.root), "--together", "--where", "budget.epochs=9", *ARGS
    )
    assert code == 0
    code, _, err = invoke("leaderboard", "compare", "gated", "independent", "--store", str(study.root), *ARGS)
    assert code == 0


def test_compare_and_schema(shared, invoke):
    code, out, _ = invoke("leaderboard", "compare", "gated", "independent", "--store", str(shared.root), *ARGS)
    assert code == 0
    assert "A = gated" in out
    code, out, _ = invoke(
        "leaderboard", "compare", "gated", "independent", "--store", str(shared.root), "--json", *ARGS
    )
    assert json.loads(out)["a"] == "gated"
    code, out, _ = invoke("leaderboard", "schema")
    assert code == 0
    assert json.loads(out)["properties"]["boards"]


def test_a_parquet_file(shared, invoke, tmp_path):
    path = tmp_path / "b.parquet"
    args = ("--store", str(shared.root), "--format", "parquet", "-o", str(path))
    assert invoke("leaderboard", *args, *ARGS)[0] == 0
    assert path.read_bytes()[:4] == b"PAR1"


def test_a_store_that_cannot_be_written_is_read(study, invoke):
    (study.root / "index").write_text("in the way")
    code, out, _ = invoke("leaderboard", "--store", str(study.root), *ARGS)
    assert code == 0
    assert "gated" in out
