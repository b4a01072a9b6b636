"""The verbs as functions: same words, same records, tables and frames."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wbcbench
from wbcbench.api import Run
from wbcbench.errors import RecordError, TrialFailedError, UsageError
from wbcbench.testing.records import write_cells

TINY: dict[str, Any] = {
    "backbone": "cellnet:width=4", "teacher": {"name": "cellnet", "width": 6}, "epochs": 2, "device": "cpu",
    "progress": False,
}  # fmt: skip


def dataset(cells: Path) -> dict[str, Any]:
    return {"name": "npz", "path": str(cells), "modalities": {"u": [0], "v": [1]}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("api")
    cells = write_cells(root / "cells.npz")
    return wbcbench.run(
        fusion=["early", "independent:rho=0.2"], kd="none,logits", seeds=[0, 1], dataset=dataset(cells),
        store=root / "store", set={"batch_size": 16, "threads": 1}, **TINY,
    )  # fmt: skip


def test_a_run_is_what_the_command_would_have_done(
    done: Run, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert len(done.records) == 8
    assert len(done.teachers) == 4  # of two modalities, for two seeds
    cells = done.store.parent / "cells.npz"
    code, out, err = invoke(
        "run", "--fusion", "early,independent:rho=0.2", "--kd", "none,logits", "--seeds", "0,1",
        "--dataset", "npz",
        "--set", f"dataset.path={cells}", "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]",
        "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6", "--epochs", "2", "--device", "cpu",
        "--set", "batch_size=16", "--set", "threads=1", "--store", str(done.store), "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["records"]
    assert {r["status"] for r in rows} == {"cached"}
    assert {r["trial_id"] for r in rows} == set(done.frame()["trial_id"])


def test_frames_hold_what_the_records_hold(done: Run) -> None:
    frame = done.frame().set_index("trial_id")
    for record in done.records:
        row = frame.loc[record.trial.id]
        assert row["test_macro_f1"] == record.result.metrics["test"]["macro_f1"]
        assert row["cost_params"] == record.result.cost.params
        cells = record.frame()
        assert (cells["predicted"] == cells["label"]).mean() == pytest.approx(row["test_accuracy"])
        assert np.allclose(cells.filter(regex="^p_").sum(axis=1), 1, atol=1e-5)
        assert len(record.frame("val")) == len(record.predictions["val_labels"])
        assert list(record.history()["epoch"]) == [0, 1]
    independent = next(r for r in done.records if r.result.fusion == "independent")
    assert {"u_p_a", "v_p_c"} <= set(independent.frame().columns)
    with pytest.raises(UsageError, match="test, val"):
        independent.frame("train")  # type: ignore[arg-type]


def test_results_show_themselves(done: Run) -> None:
    assert repr(done).count("independent") == 6  # four rows, and whether the two methods had levelled off
    assert "<table" in done._repr_html_()
    board = wbcbench.leaderboard(done.store, resamples=200)
    assert "macro-F1" in repr(board)
    assert "<table" in board._repr_html_()
    html = done.records[0]._repr_html_()
    assert "macro_f1" in html
    assert done.records[0].trial.id in html


def test_a_record_shows_itself_in_a_few_short_lines(done: Run) -> None:
    record = next(r for r in done.records if r.result.kd == "logits" and r.result.fusion == "early")
    title, *metrics, path = repr(record).splitlines()
    assert title.startswith("early + logits, seed ")
    assert record.trial.id in title
    assert [line.split()[:3:2] for line in metrics] == [
        [side, f"{record.result.metrics[side]['accuracy']:.3f},"] for side in record.result.metrics
    ]
    assert path.strip() == str(record.path)
    assert max(map(len, [title, *metrics])) < 160


def test_the_full_evaluation_is_that_of_the_command(done: Run) -> None:
    words: dict[str, Any] = {
        "fusion": "early", "dataset": dataset(done.store.parent / "cells.npz"), "store": done.store,
        "set": {"batch_size": 16, "threads": 1},
    }  # fmt: skip
    assert wbcbench.run(**words, kd="none", **TINY).examinations == []
    (entry,) = wbcbench.run(**words, kd="none", evaluate="full", **TINY).examinations
    assert set(entry["result"]["subsets"]) >= {"u", "v"}
    assert (done.store / "evaluations" / f"{entry['trial_id']}.json").is_file()
    with pytest.raises(UsageError, match="'full'"):
        wbcbench.run(**words, evaluate="ful", **TINY)


def test_boards_are_those_of_the_command(
    done: Run, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    board = wbcbench.leaderboard(done.store, resamples=200)
    code, out, _ = invoke("leaderboard", "--store", str(done.store), "--resamples", "200", "--format", "csv")
    assert code == 0
    assert board.render("csv").decode() == out
    assert len(board.frame()) == out.count("\n") - 1
    assert board.save(tmp_path / "b.md").read_bytes() == board.render("markdown")
    with pytest.raises(UsageError, match="Did you mean"):
        board.render("markdwn")
    with pytest.raises(UsageError, match="no folder"):
        wbcbench.leaderboard(tmp_path / "nowhere")


def test_records_are_found_by_what_they_are_called(done: Run, tmp_path: Path) -> None:
    record = done.records[0]
    for name in (record.trial.id, record.trial.id[:10], record.path):
        assert wbcbench.load_record(name, done.store).result == record.result
    with pytest.raises(UsageError, match="No record"):
        wbcbench.load_record("nothing", done.store)
    every = wbcbench.load_records(done.store)
    assert len(every) == len(list(every)) == 12
    assert every[0].trial.id == every.frame()["trial_id"][0]
    assert len(every[2:5]) == len(every[2:5].frame()) == 3
    assert every[0] in every


def test_damaged_records_are_named(done: Run, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(done.store / "records", copy / "records")
    trial = done.records[0].trial.id
    (copy / "records" / trial / "predictions.npz").write_bytes(b"x")
    found = wbcbench.load_records(copy)
    assert len(found.records) == 11
    assert trial in repr(found)
    with pytest.raises(RecordError):
        wbcbench.load_record(trial, copy)


def test_a_search_and_its_winner(done: Run) -> None:
    options: dict[str, Any] = {
        "fusion": "early", "dataset": dataset(done.store.parent / "cells.npz"), "store": done.store, "trials": 2,
        "set": {"batch_size": 16, "threads": 1}, "winner_seeds": [0], "space": {"training.lr": "log(1e-4,1e-2)"},
    }  # fmt: skip
    found = wbcbench.search(**options, **TINY)
    assert len(found.frame()) == 2
    assert found.frame()["training.lr"].between(1e-4, 1e-2).all()
    assert len(found.winners) == 1
    assert found.winners[0].result.metrics["test"]
    again = wbcbench.search(**options, **TINY)
    assert again.frame().equals(found.frame())


def test_what_fails_is_raised_or_returned(done: Run, tmp_path: Path) -> None:
    plugin = tmp_path / "plugins" / "breaking.py"
    plugin.parent.mkdir()
    plugin.write_text(
        '"""Breaks."""\nfrom wbcbench.contracts import Distiller, Needs\n\n\n'
        'class Breaking(Distiller):\n    """Breaks."""\n\n    name = "breaking"\n    source = "none"\n'
        '    matches = "logits"\n    needs = Needs(student=("logits",), teacher=("logits",))\n\n'
        "    def terms(self, student, teacher, progress):\n        if progress.epoch:\n"
        '            raise ValueError("broken on purpose")\n        return {"x": student.logits.sum(1)}\n'
    )
    options: dict[str, Any] = {
        "fusion": "early", "kd": "breaking,none", "dataset": dataset(done.store.parent / "cells.npz"),
        "store": tmp_path / "store", "plugins_dir": plugin.parent, "set": {"batch_size": 16, "threads": 1},
    }  # fmt: skip
    with pytest.raises(TrialFailedError, match="broken on purpose"):
        wbcbench.run(**options, **TINY)
    left = wbcbench.run(**options, **TINY, check=False)
    assert len(left.failed) == 1
    assert len(left.records) == 1
    assert "broken on purpose" in repr(left)
    with pytest.raises(UsageError, match="earyl"):
        wbcbench.run(fusion="earyl", **TINY)


def test_a_comparison_is_that_of_the_command(done: Run, invoke: Callable[..., tuple[int, str, str]]) -> None:
    a, b = "early + logits", "independent + logits"
    found = wbcbench.compare(a, b, done.store, resamples=200)
    words = ("--store", str(done.store), "--resamples", "200", "--json")
    code, out, _ = invoke("leaderboard", "compare", a, b, *words)
    assert code == 0
    assert found.explanation.model_dump(mode="json") == json.loads(out)
    assert list(found.frame()["name"].sort_values()) == ["a", "b", "c"]
    assert "McNemar" in repr(found)
    assert "<table" in found._repr_html_()


def test_a_study_is_that_of_the_command(
    done: Run, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(
        json.dumps({
            "common": {"dataset": dataset(done.store.parent / "cells.npz"), "epochs": 2, "batch_size": 16,
                       "backbone": "cellnet:width=4", "teacher": {"backbone": "cellnet:width=6"}},
            "parts": {"plain": {"fusion": "early"}, "taught": {"fusion": "early", "kd": "logits"}},
        })
    )  # fmt: skip
    found = wbcbench.study(
        tmp_path / "study.yaml", store=done.store, device="cpu", set={"threads": 1}, progress=False
    )
    assert list(found.frame()["part"]) == ["plain", "taught", "taught", "taught"]
    assert {r.trial.id for r in found.records} <= {r.trial.id for r in done.records}
    assert repr(found).count("taught") == 5  # three rows and two notes
    code, out, _ = invoke(
        "study", str(tmp_path / "study.yaml"), "--store", str(done.store), "--set", "threads=1", "--json"
    )
    assert code == 0
    rows = {part["name"]: [r["trial_id"] for r in part["records"]] for part in json.loads(out)["parts"]}
    assert rows == found.frame().groupby("part")["trial_id"].apply(list).to_dict()
    assert len(wbcbench.study(tmp_path / "study.yaml", only="plain", store=done.store, progress=False).parts) == 1


def test_what_is_taken_of_a_record_is_what_the_command_takes(
    done: Run, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    record, cells, at = done.records[0], done.store.parent / "cells.npz", ("--store", str(done.store))
    found = wbcbench.predict(record.trial.id, cells, store=done.store, output=tmp_path / "a.csv", progress=False)
    code, out, _ = invoke("predict", record.trial.id, str(cells), *at, "-o", str(tmp_path / "b.csv"), "--json")
    assert code == 0
    assert found.facts | {"output": str(tmp_path / "b.csv")} == json.loads(out)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert found.summary()["cells"].sum() == len(found.frame()) == found.facts["cells"]
    assert wbcbench.predict(record.path, [cells, cells], progress=False).facts["cells"] == 2 * len(found.frame())

    written = wbcbench.export(record.trial.id, tmp_path / "taken", format="safetensors", store=done.store)
    assert written.files == sorted(p.name for p in (tmp_path / "taken").iterdir())
    assert written.agreement.largest <= 1e-4
    assert "safetensors" in repr(written)
    page = wbcbench.report(record.trial.id, tmp_path / "a.html", store=done.store)
    assert page.path.read_text().startswith("<!doctype html>")
    code, _, _ = invoke("report", record.trial.id, *at, "-o", str(tmp_path / "b.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    with pytest.raises(UsageError, match="new folder"):
        wbcbench.export(record.trial.id, tmp_path / "taken", format="onnx", store=done.store)


def test_a_check_is_that_of_the_command(invoke: Callable[..., tuple[int, str, str]]) -> None:
    found = wbcbench.check("early", only="registered", set={})
    code, out, _ = invoke("check", "early", "--only", "registered", "--json")
    (component,) = json.loads(out)["components"]
    assert (code, component["ok"]) == (0, found.ok)
    assert [p["promise"] for p in component["promises"]] == list(found.frame()["promise"])
    assert "fusion" in repr(found)
    with pytest.raises(UsageError, match="Did you mean 'early'"):
        wbcbench.check("earyl")


def test_variables_stand_in_for_arguments_as_for_flags(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBCBENCH_STORE", str(done.store))
    monkeypatch.setenv("WBCBENCH_FUSION", "early")
    again = wbcbench.run(
        dataset=dataset(done.store.parent / "cells.npz"), set={"batch_size": 16, "threads": 1}, **TINY
    )
    assert [r.trial.id for r in again.records] == [r.trial.id for r in done.records if r in again.records]
    assert again.store == done.store
    assert len(wbcbench.load_records()) >= 10
    monkeypatch.setenv("WBCBENCH_EPOCHS", "none")
    with pytest.raises(UsageError, match="epochs"):
        wbcbench.run(fusion="early")


@pytest.mark.parametrize("before", ["", "import wbcbench.searches.optuna_study, wbcbench.boards.build;"])
def test_functions_are_functions_whatever_was_imported_before(before: str) -> None:
    code = (
        f"import sys, wbcbench; {before}\n"
        "from types import FunctionType\n"
        "names = [n for n in wbcbench.__all__ if n != '__version__']\n"
        "assert all(isinstance(getattr(wbcbench, n), FunctionType) for n in names)\n"
        "from wbcbench.errors import UsageError\n"
        "for call in (lambda: wbcbench.leaderboard('/nowhere'), lambda: wbcbench.search(fusion='earyl')):\n"
        "    try: call()\n"
        "    except UsageError: pass\n"
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_entry_point_imports_the_command_line() -> None:
    package = Path(wbcbench.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.parent.name != "cli" and "wbcbench.cli" in path.read_text(encoding="utf-8")
    ]
    assert found == ["__main__.py"]


def test_a_request_has_a_field_for_every_flag_that_makes_it() -> None:
    from dataclasses import fields

    from wbcbench.api.requests import Choices, Compute
    from wbcbench.spec.load import ARGUMENTS

    assert {f.name for f in fields(Choices)} - {"config", "track", "settings", "plugins"} == set(ARGUMENTS)
    assert {f.name for f in fields(Compute)} <= {f.name for f in fields(Choices)}


def test_importing_wbcbench_imports_nothing_heavy_and_lists_its_names() -> None:
    assert set(wbcbench.__all__) <= set(dir(wbcbench))
    code = "import sys, wbcbench; dir(wbcbench); "
    code += "print([m for m in ('torch', 'pandas', 'ray', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
