"""`wbcbench search` as a user meets it: real tiny trainings, winners, the Pareto set, reports, exports, errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from wbcbench.boards import Options, build, report
from wbcbench.records.store import Store
from wbcbench.searches.files import find_study, search_budgets
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.search import fresh_seeds

Invoke = Callable[..., tuple[int, str, str]]
BOARD = Options(resamples=100, index=False)


@pytest.fixture
def search(invoke: Invoke, cells_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """`wbcbench search --json` on the tiny cells, two epochs each; returns the searches, or stderr."""

    def call(*args: str, code: int = 0, epochs: int = 2, plain: bool = False) -> Any:
        got, out, err = invoke(
            "search", "--dataset", "npz", "--set", f"dataset.path={cells_file}",
            "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]",
            "--store", str(tmp_path / "s"), "--epochs", str(epochs),
            "--set", "batch_size=16", "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6",
            "--device", "cpu", "--set", "threads=1", *(() if plain else ("--json",)), *args,
        )  # fmt: skip
        assert got == code, err
        assert "Traceback" not in err
        return out if plain else json.loads(out)["searches"] if out else err

    return call


def test_a_search_ends_in_a_winner_with_fresh_seeds_and_its_budget(
    search: Callable[..., Any], invoke: Invoke, tmp_path: Path
) -> None:
    args = ("--fusion", "early", "--kd", "logits", "--trials", "3", "--winner-seeds", "0,1")
    (found,) = search(*args)
    store = Store(tmp_path / "s")
    assert found["budget"]["trials"] == found["budget"]["complete"] == 3
    (winner,) = found["winners"]
    assert winner["seeds"] == [0, 1]
    assert winner["proposal"] == found["best"][0]["trial_id"]
    best = store.load(winner["proposal"])
    assert best.trial.seed == 1000
    assert found["best"][0]["values"]["macro_f1"] == best.result.metrics["val"]["macro_f1"]
    for trial_id, seed in zip(winner["trial_ids"], (0, 1), strict=True):
        record = store.load(trial_id)
        assert (record.trial.seed, record.trial.sealed) == (seed, False)
        assert record.trial.method_id() == best.trial.method_id()
        assert search_budgets(store)[trial_id].trials == 3
    board = next(b for b in build([store], BOARD) if len(b.key.modalities) == 2)
    (row,) = (r for r in board.rows if r.status == "ranked")
    assert row.seeds == (0, 1)
    assert (row.search.study, row.search.trials, row.search.complete) == (found["study"], 3, 3)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "records").rglob("*")}
    (again,) = search(*args)
    assert again == found
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "records").rglob("*")} == before
    code, out, _ = invoke("search", "list", "--store", str(tmp_path / "s"), "--json")
    assert code == 0
    assert json.loads(out)["searches"][0]["complete"] == 3
    # one that is damaged hides no other
    copy = tmp_path / "s" / "searches" / "copy"
    shutil.copytree(tmp_path / "s" / "searches" / found["study"], copy)
    (copy / "spec.json").unlink()
    code, out, err = invoke("search", "list", "--store", str(tmp_path / "s"), "--json")
    assert code == 0
    assert [r["study"] for r in json.loads(out)["searches"]] == [found["study"]]
    assert list(json.loads(out)["damaged"]) == ["copy"]
    assert err.startswith("refused: study copy: ")
    shutil.rmtree(copy)
    # what a search had spent is not made up
    winner = tmp_path / "s" / "searches" / found["study"] / "winner.json"
    winner.write_text(winner.read_text().replace('"trials": 3', '"trials": 1'))
    boards = report([store], BOARD)
    assert [r.search for b in boards.boards for r in b.rows if r.status == "ranked"] == [None]
    assert any(f"searches/{found['study']}/winner.json is damaged" in note for note in boards.notes)


def test_seeds_of_winners_differ_from_the_search_s() -> None:
    assert fresh_seeds((0, 1, 2), 1000) == (0, 1, 2)
    assert fresh_seeds((0, 1, 2), 0) == (1, 2, 3)
    assert fresh_seeds((5, 7), 7) == (8, 10)
    assert fresh_seeds((3, 3), 0) == (3,)


def test_several_objectives_give_the_pareto_set(search: Callable[..., Any], tmp_path: Path) -> None:
    (found,) = search(
        "--fusion", "early,late", "--objective", "macro_f1,params", "--sampler", "nsga2", "--trials", "4",
        "--winners", "2", "--winner-seeds", "0",
    )  # fmt: skip
    store = Store(tmp_path / "s")
    folder = find_study(store, found["study"])
    study = Study(folder.spec(), folder, store)
    points = [(t.values[0], -t.values[1]) for t in study.optuna.trials]
    best = {(b["values"]["macro_f1"], -b["values"]["params"]) for b in found["best"]}
    undominated = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert best == undominated
    assert len(found["winners"]) == min(2, len(found["best"]))


def test_a_pruned_trial_has_no_record_and_no_rank(search: Callable[..., Any], tmp_path: Path) -> None:
    (found,) = search("--fusion", "early", "--pruner", "asha", "--sampler", "random", "--trials", "6",
                      "--objective", "nll", "--no-winner", epochs=3)  # fmt: skip
    assert found["budget"]["pruned"] > 0
    assert found["winners"] == []
    store = Store(tmp_path / "s")
    records, _ = store.scan()
    assert len(records) == found["budget"]["complete"]
    assert build([store], BOARD) == []
    assert not (tmp_path / "s" / "failures").exists()


def test_a_diverging_trial_is_a_failed_proposal(search: Callable[..., Any], tmp_path: Path) -> None:
    space = ("--space", "training.lr=choice(0.002,10)", "--set", "training.optimiser=sgd")
    (found,) = search(
        "--fusion", "early", "--sampler", "random", "--trials", "4", "--no-winner", *space,
        "--set", "training.clip=0", "--set", "training.weight_decay=10",
    )  # fmt: skip
    assert found["budget"]["failed"] >= 1
    assert found["budget"]["failed"] + found["budget"]["complete"] == 4
    folder = find_study(Store(tmp_path / "s"), None)
    states = [t.state.name for t in Study(folder.spec(), folder, Store(tmp_path / "s")).optuna.trials]
    assert states.count("FAIL") == found["budget"]["failed"]


def test_each_method_has_an_equal_search(search: Callable[..., Any], tmp_path: Path) -> None:
    args = ("--each", "--fusion", "early,late", "--trials", "2", "--winner-seeds", "0", "--name", "duel")
    found = search(*args)
    assert [f["study"] for f in found] == ["duel-0", "duel-1"]
    assert [f["budget"]["trials"] for f in found] == [2, 2]
    assert [len(f["winners"]) for f in found] == [1, 1]
    (board,) = build([tmp_path / "s"], BOARD)
    assert {r.method for r in board.rows} == {"early", "late_prob"}
    assert {r.search.trials for r in board.rows} == {2}
    out = search(*args, plain=True)
    assert out.count("2 proposals: 2 finished, 0 pruned, 0 failed") == 2
    rows = out.split("Each method's own search")[1].splitlines()[2:]
    assert [(r.split()[0], r.split()[-1]) for r in rows] == [("early,", "duel-0"), ("late,", "duel-1")]


def test_a_report_marks_the_winner_and_has_its_test_result(
    search: Callable[..., Any], invoke: Invoke, tmp_path: Path
) -> None:
    (found,) = search("--fusion", "early", "--trials", "2")
    target = tmp_path / "page.html"
    code, out, err = invoke("search", "report", found["study"], "--store", str(tmp_path / "s"), "-o", str(target))
    assert (code, out.split()) == (0, [str(target)]), err  # one file, where a file was asked for
    won = re.findall(r"<tr class=won>.*?</tr>", target.read_text(), re.DOTALL)
    assert len(won) == 1
    scores = found["winners"][0]["test"]["macro_f1"]
    assert f"{sum(scores) / len(scores):.3f}" in won[0]


def test_reports_and_exports(search: Callable[..., Any], invoke: Invoke, tmp_path: Path) -> None:
    (found,) = search("--fusion", "early", "--trials", "3", "--no-winner")
    store = ("--store", str(tmp_path / "s"))
    code, out, err = invoke("search", "report", found["study"], *store, "-o", str(tmp_path / "r"), "--json")
    assert code == 0, err
    files = [Path(p) for p in json.loads(out)["files"]]
    assert {p.name for p in files} >= {"report.html", "history.png", "slices.png"}
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in files if p.suffix == ".png")
    page = (tmp_path / "r" / "report.html").read_text()
    assert found["study"] in page
    assert "No importances: 3 finished proposals are too few" in page
    assert page.count("plotly-graph-div") >= 3
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)\s*=", page), "nothing is fetched"

    journal, database = tmp_path / "study.log", f"sqlite:///{tmp_path / 'study.db'}"
    for target in (str(journal), database):
        code, _, err = invoke("search", "export", *store, "--to", target)
        assert code == 0, err
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    for storage in (optuna.storages.JournalStorage(backend), database):
        copy = optuna.load_study(study_name=found["study"], storage=storage)
        assert {t.user_attrs["trial_id"] for t in copy.trials} == {b["trial_id"] for b in found["best"]}
        assert sorted(t.value for t in copy.trials) == sorted(b["values"]["macro_f1"] for b in found["best"])
        assert all(len(t.intermediate_values) == 2 for t in copy.trials)
    code, _, err = invoke("search", "export", *store, "--to", str(journal))
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--space", "training.lr"), "name=range"),
        (("--space", "training.lrr=log(1,2)"), "Did you mean 'training.lr'"),
        (("--space", "training.lr=__import__('os')"), "unknown range"),
        (("--objective", "macro_f2"), "Did you mean"),
        (("--sampler", "tpee"), "'tpe', 'nsga2'"),
        (("--objective", "macro_f1,macs", "--pruner", "asha"), "Use --pruner none"),
        (("--sampler", "cmaes"), "numbers only"),
        (("--fusion", "single"), "one per modality"),
        (("--fusion", "erly"), "Did you mean 'early'"),
        (("--seeds", "0,1"), "--winner-seeds"),
        (("--name", "../x"), "name"),
        (("--set", "trials=3"), "trials"),
    ],
)
def test_a_mistake_is_explained_before_anything_is_written(
    search: Callable[..., Any], tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    assert message in search(*args, code=2)
    assert not (tmp_path / "s").exists()


def test_other_verbs_of_search_explain_mistakes(invoke: Invoke, tmp_path: Path) -> None:
    for verb in (
        ("report",),
        ("report", "nope"),
        ("export", "--to", "x.log"),
        ("export", "nope", "--to", "x.log"),
    ):
        code, _, err = invoke("search", *verb, "--store", str(tmp_path))
        assert code == 2
        assert "`wbcbench search` creates one" in err
    assert invoke("search", "list", "--store", str(tmp_path))[0] == 0


def test_a_file_says_what_to_search(invoke: Invoke, tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "search_synthetic.yaml"
    code, out, err = invoke(
        "search", "--config", str(config), "--dry-run", "--json", "--store", str(tmp_path / "s")
    )
    assert code == 0, err
    (found,) = json.loads(out)["searches"]
    ranges = {r["name"]: r["range"] for r in found["space"]}
    assert ranges["distiller.temperature"] == "log(1, 20)"
    assert ranges["distiller.weight"] == "fixed(0.1)"
    assert ranges["fusion.rho"] == "choice(0.0, 0.5, 1.0)"
    assert (found["left"], found["teachers_to_train"]) == (12, 3)
    assert not (tmp_path / "s").exists()
    code, out, _ = invoke("search", "--config", str(config), "--space", "fusion.rho=0.5", "--trials", "3",
                          "--dry-run", "--json", "--store", str(tmp_path / "s"))  # fmt: skip
    (found,) = json.loads(out)["searches"]
    assert found["left"] == 3
    assert {r["name"]: r["range"] for r in found["space"]}["fusion.rho"] == "fixed(0.5)"
    assert invoke("run", "--config", str(config), "--dry-run", "--store", str(tmp_path / "s"))[0] == 0


def test_help_and_the_space_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom wbcbench.cli import execute\n"
        "a = execute(['search', '--help'])\nb = execute(['search', '--show-space'])\n"
        "print(a, b, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second, *modules = done.stderr.splitlines()[-1].split()
    assert (first, second) == ("0", "0")
    assert not {"torch", "timm", "ray", "plotly", "matplotlib"} & set(modules)


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(
    search: Callable[..., Any], cells_file: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a proposal; the same command again gives the records of an unbroken search."""
    args = ("--fusion", "early", "--kd", "logits", "--trials", "4", "--no-winner", "--pruner", "median")
    (whole,) = search(*args, epochs=6)
    (tmp_path / "s").rename(tmp_path / "whole")
    (tmp_path / "s").mkdir()
    command = [
        sys.executable, "-m", "wbcbench", "search", "--dataset", "npz", "--set", f"dataset.path={cells_file}",
        "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]", "--store", str(tmp_path / "s"),
        "--epochs", "6", "--set", "batch_size=16", "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6",
        "--device", "cpu", "--set", "threads=1", *args,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = tmp_path / "s" / "searches" / whole["study"] / "proposals" / "00001.json"
    while not (second.is_file() and list((tmp_path / "s" / "work").glob("*/checkpoint*"))):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    (again,) = search(*args, epochs=6)
    assert again["best"] == whole["best"]
    digests = [{r.trial.id: r.result.digest for r in Store(tmp_path / s).scan()[0]} for s in ("s", "whole")]
    assert digests[0] == digests[1]


def test_two_commands_do_not_search_one_study_at_once(
    search: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would count the other's proposals as its own, and a winner's budget would be wrong."""
    monkeypatch.setattr("wbcbench.searches.search.PATIENCE", 0.1)
    args = ("--fusion", "early", "--kd", "none", "--trials", "1", "--name", "mine")
    with Store(tmp_path / "s").lock("search-mine"):
        assert "Expected exclusive access to search mine" in search(*args, code=1)
    assert not (tmp_path / "s" / "searches" / "mine" / "proposals").exists()
    (found,) = search(*args)
    assert found["budget"]["trials"] == 1
