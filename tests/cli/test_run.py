"""`wbcbench run` as a user meets it: dry run, summary, environment, no heavy imports before work starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.api.running import RunRequest
from wbcbench.cli.output import print_examinations
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_record, write_cells

Invoke = Callable[..., tuple[int, str, str]]


def arguments(cells_file: Path, store: Path) -> list[str]:
    return [
        "run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--set", "dataset.modalities.u=[0]",
        "--set", "dataset.modalities.v=[1]", "--store", str(store), "--epochs", "1", "--set", "batch_size=16",
        "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=4", "--device", "cpu",
    ]  # fmt: skip


def test_a_dry_run_shows_trials_and_what_is_done(invoke: Invoke, cells_file: Path, tmp_path: Path) -> None:
    base = arguments(cells_file, tmp_path / "s")
    code, out, _ = invoke(*base, "--kd", "logits", "--dry-run", "--json")
    rows = json.loads(out)["trials"]
    assert code == 0
    assert [(r["role"], r["done"], r["cell_views"]) for r in rows] == [
        ("teacher", False, 51), ("teacher", False, 51), ("student", False, 51),
    ]  # fmt: skip
    assert rows[2]["needs"] == [rows[0]["trial_id"], rows[1]["trial_id"]]
    assert not (tmp_path / "s").exists(), "a dry run writes nothing"
    invoke(*base, "--fusion", "single", "--backbone", "cellnet:width=4")
    code, out, _ = invoke(*base, "--kd", "logits", "--dry-run", "--json")
    rows = json.loads(out)["trials"]
    assert [r["done"] for r in rows] == [True, True, False]
    assert rows[0]["estimated_seconds"] is not None
    code, out, _ = invoke(*base, "--kd", "logits", "--dry-run")
    assert "2 done, 1 to run" in out


def test_a_dry_run_imports_nothing_heavy(cells_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom wbcbench.cli import execute\n"
        f"code = execute({[*arguments(cells_file, tmp_path / 's'), '--kd', 'logits', '--dry-run']!r})\n"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *modules = done.stderr.splitlines()[-1].split()
    assert status == "0"
    assert not {"torch", "timm", "ray", "pandas", "sklearn"} & set(modules)


def test_a_run_with_nothing_left_to_do_imports_no_torch(invoke: Invoke, cells_file: Path, tmp_path: Path) -> None:
    base = [*arguments(cells_file, tmp_path / "s"), "--fusion", "early", "--json"]
    assert invoke(*base)[0] == 0
    code = (
        "import sys\nfrom wbcbench.cli import execute\n"
        f"code = execute({base!r})\nprint(code, 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-2:] == ["0", "False"]
    assert json.loads(done.stdout)["records"][0]["status"] == "cached"


def test_the_summary_names_what_a_newcomer_needs(invoke: Invoke, cells_file: Path, tmp_path: Path) -> None:
    base = arguments(cells_file, tmp_path / "s")
    code, out, err = invoke(*base, "--kd", "logits")
    assert code == 0
    for part in ("student", "teacher", "single[u]", "test macro-F1", "test bal. acc.", "params", "MACs",
                 "replayed", str(tmp_path / "s" / "records"), "wbcbench leaderboard"):  # fmt: skip
        assert part in out, part
    assert "epoch" in err
    assert "epoch" not in out
    code, out, _ = invoke(*base, "--kd", "logits")
    assert code == 0
    assert "Nothing left to do" in out


def test_policies_are_part_of_what_a_method_is_called(invoke: Invoke, cells_file: Path, tmp_path: Path) -> None:
    base = [*arguments(cells_file, tmp_path / "s"), "--fusion", "concat", "--kd", "none"]
    base += ["--policy", "modality_dropout"]
    code, out, _ = invoke(*base, "--dry-run")
    assert code == 0
    assert "concat + modality_dropout" in out
    code, out, err = invoke(*base)
    assert code == 0
    assert "concat + modality_dropout" in out
    assert "student concat + modality_dropout, seed 0" in err
    code, out, _ = invoke(*base, "--json")
    assert json.loads(out)["records"][0]["policies"] == ["modality_dropout"]
    code, out, _ = invoke("leaderboard", "--store", str(tmp_path / "s"))
    assert "concat + modality_dropout" in out


def test_what_a_network_relies_on_has_one_sign(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"method": "early", "kd": "none", "seed": 0, "policies": ["cutmix"]}
    for drop, shown in ((0.25, "(-0.250)"), (-0.01, "(+0.010)")):
        result = {"clean": {"macro_f1": 0.5}, "permutation_drop": {"u": drop}, "retained": {"u": {"noise": 0.5}}}
        print_examinations([entry | {"result": result}])
        out = capsys.readouterr().out
        assert f"u {shown}" in out
        assert "early + cutmix" in out


def test_environment_variables_stand_between_file_and_flags(
    invoke: Invoke, cells_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WBCBENCH_SEEDS", "4,5")
    base = [*arguments(cells_file, tmp_path), "--dry-run", "--json"]
    assert [r["seed"] for r in json.loads(invoke(*base)[1])["trials"]] == [4, 5]
    assert [r["seed"] for r in json.loads(invoke(*base, "--seeds", "6")[1])["trials"]] == [6]


def test_a_leaderboard_of_what_was_run(invoke: Invoke, cells_file: Path, tmp_path: Path) -> None:
    base = arguments(cells_file, tmp_path / "s")
    invoke(*base, "--fusion", "early,independent", "--kd", "none,logits", "--seeds", "0,1")
    code, out, _ = invoke("leaderboard", "--store", str(tmp_path / "s"), "--json")
    boards = json.loads(out)["boards"]
    assert code == 0
    rows = {(r["method"], r["kd"]): r for r in boards[0]["rows"]}
    assert rows["independent", "logits"]["seeds"] == [0, 1]
    assert {("early", "none"), ("early", "logits"), ("single[u]", "none")} <= set(rows)
    code, out, _ = invoke("leaderboard", "--store", str(tmp_path / "s"), "--format", "csv")
    assert code == 0
    assert "independent" in out


def test_stains_say_that_they_are_pseudo_multimodal(invoke: Invoke, tmp_path: Path) -> None:
    code, out, err = invoke(
        "run", "--dataset", "stains", "--set", "dataset.base=synthetic", "--set", "dataset.base_params.cells=120",
        "--set", "dataset.base_params.image_size=32", "--fusion", "early", "--epochs", "1", "--backbone",
        "cellnet:width=4", "--store", str(tmp_path), "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "Pseudo-multimodal" in out


def test_cells_that_lack_a_modality(invoke: Invoke, tmp_path: Path) -> None:
    from PIL import Image

    rows = ["bf,dapi,label"]
    for i in range(60):
        for name, value in (("bf", 40 + 90 * (i % 2)), ("dapi", 200 - 90 * (i % 2))):
            image = Image.new("L", (16, 16), value + i % 7)
            image.putpixel((i % 16, i // 16), 0)  # no two cells show the same
            image.save(tmp_path / f"{name}{i}.png")
        rows.append(f"bf{i}.png,{'' if i % 5 == 0 else f'dapi{i}.png'},{'ab'[i % 2]}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    code, out, err = invoke(
        "run", "--dataset", "folder", "--set", f"dataset.path={tmp_path / 'manifest.csv'}", "--fusion",
        "early,late,independent", "--kd", "none,logits", "--epochs", "1", "--backbone", "cellnet:width=4",
        "--teacher", "cellnet:width=4", "--store", str(tmp_path / "s"), "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert {r["status"] for r in json.loads(out)["records"]} == {"done"}


def test_broken_data_ends_with_2_before_any_training(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("bf,label\nmissing.png,a\nalso_missing.png,b\n")
    code, _, err = invoke(
        "run", "--dataset", "folder", "--set", f"dataset.path={tmp_path / 'manifest.csv'}", "--image-size", "16",
        "--store", str(tmp_path / "s"),
    )  # fmt: skip
    assert code == 2
    assert "missing.png" in err
    assert "also_missing.png" in err
    assert "Traceback" not in err
    assert not (tmp_path / "s" / "records").exists()


def test_folds_that_are_run(invoke: Invoke, tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.npz")
    run = ("run", "--dataset", "npz", "--set", f"dataset.path={path}", "--fusion", "early", "--kd", "logits",
           "--store", str(tmp_path / "s"), "--dry-run", "--json")  # fmt: skip
    folded = ("--set", "split.scheme=kfold", "--set", "split.folds=3")
    code, out, _ = invoke(*run, *folded)
    rows = json.loads(out)["trials"]
    assert code == 0
    assert [r["fold"] for r in rows if r["role"] == "student"] == [0, 1, 2]
    students = {r["fold"]: r["needs"] for r in rows if r["role"] == "student"}
    assert {r["fold"] for r in rows if r["trial_id"] in students[1]} == {1}, "teachers train on it too"
    _, out, _ = invoke(*run, *folded, "--folds", "0,2")
    assert {r["fold"] for r in json.loads(out)["trials"]} == {0, 2}
    for args, says in (((*folded, "--folds", "3"), "0 to 2, but got 3"), (("--folds", "0"), "split.scheme is")):
        code, _, err = invoke(*run, *args)
        assert code == 2
        assert says in err


def test_a_run_that_still_improved_says_so_and_what_longer_costs(
    invoke: Invoke, cells_file: Path, tmp_path: Path
) -> None:
    base = [*arguments(cells_file, tmp_path / "s"), "--fusion", "early,concat", "--kd", "none", "--epochs", "8"]
    store = Store(tmp_path / "s")
    planned = json.loads(invoke(*base, "--dry-run", "--json")[1])["trials"]
    request = RunRequest(
        dataset={"name": "npz", "path": str(cells_file), "modalities": {"u": [0], "v": [1]}},
        fusion="early,concat", kd="none", backbone="cellnet:width=4", epochs=8, settings={"batch_size": 16},
        device="cpu", store=tmp_path / "s",
    )  # fmt: skip
    trials = [p.trial for p in request.plan().plan.trials]
    assert [t.id for t in trials] == [p["trial_id"] for p in planned]
    for trial, values in zip(trials, ([i / 10 for i in range(8)], [0.7] * 8), strict=True):
        fake_record(store, trial, validation=values, train_seconds=3.0)
    code, out, _ = invoke(*base)
    assert code == 0
    assert "Had training levelled off (gain of its last half)? still improving: early (+0.400 ± " in out
    assert "; plateau: concat (+0.000 ± 0.000)." in out
    assert "Longer: the same command with --epochs 16, 2 new trials." in out
    levels = json.loads(invoke(*base, "--json")[1])["levelled"]
    assert [(v["method"], v["verdict"]) for v in levels] == [("early", "still improving"), ("concat", "plateau")]
