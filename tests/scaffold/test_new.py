"""`wbcbench new`: what it writes works at once, and what it must not write it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.registry import KINDS
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.scaffold import TRY, write_file, write_package

ROOT = Path(__file__).parents[2]
Invoke = Callable[..., tuple[int, str, str]]
LONG = "a_name_that_is_as_long_as_a_name_may_be0"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBCBENCH_PLUGIN_PATH", raising=False)


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_and_its_test_and_three_lines(kind: str, invoke: Invoke) -> None:
    code, out, err = invoke("new", kind, "mine")
    assert (code, err) == (0, "")
    assert sorted(os.listdir("plugins")) == ["mine.py", "test_mine.py"]
    first, *steps = out.splitlines()
    assert "plugins/mine.py" in first
    assert len(steps) == 3
    assert any(TRY[kind].format("mine") in step for step in steps)
    # the test beside it is no plugin
    registry, report = load_plugins(PluginOptions((Path("plugins"),)))
    assert [p.status for p in report.plugins if not p.builtin] == ["ok"]
    component = registry.get(kind, "mine")
    declared = registry.declaration(component)
    assert component.summary
    assert declared.stored["params"]["plain"], "`wbcbench run --dry-run` must not import it"


@pytest.mark.parametrize("name", ["mine", LONG])  # mypy reads the templates themselves, as a part of wbcbench
def test_ruff_finds_nothing(name: str, tmp_path: Path) -> None:
    for kind in KINDS:
        write_file(kind, name, tmp_path / kind)
        write_package(kind, name, tmp_path / kind)
    config = ("--config", str(ROOT / "pyproject.toml"))
    first_party = ("--config", 'lint.isort.known-first-party=["wbcbench"]')
    run("ruff", "check", "--no-cache", *config, *first_party, str(tmp_path))
    run("ruff", "format", "--no-cache", "--check", *config, str(tmp_path))


def test_all_of_them_work_together(train: Callable[..., dict[str, Any]], invoke: Invoke) -> None:
    for kind in KINDS:
        assert invoke("new", kind, f"my_{kind}", "--plugins-dir", "mine")[0] == 0
    flags = {"fusion": "--fusion", "distiller": "--kd", "backbone": "--backbone", "policy": "--policy",
             "routing": "--routing", "dataset": "--dataset"}  # fmt: skip
    given = [word for kind, flag in flags.items() for word in (flag, f"my_{kind}")]
    code, out, err = invoke(
        "run", "--plugins-dir", "mine", *given, "--set", "dataset.cells=60", "--set", "dataset.image_size=16",
        "--teacher", "cellnet:width=4", "--epochs", "1", "--device", "cpu", "--set", "threads=1", "--json",
        "--evaluate", "full", "--corruption", "my_corruption",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    student = document["records"][-1]
    kinds = document["evaluations"][0]["result"]["corruptions"].values()
    assert all(len(k["local.my_corruption/my_corruption"]) == 5 for k in kinds)
    assert student["status"] == "done"
    assert "my_fusion" in student["fusion"]
    code, out, err = invoke("leaderboard", "--plugins-dir", "mine", "--by", "my_metric", "--json")
    assert code == 0, err
    (board,) = [b for b in json.loads(out)["boards"] if b["by"] == "my_metric"][:1]
    assert 0 < board["rows"][0]["metrics"]["my_metric"]["mean"] <= 1


@pytest.mark.slow
def test_its_test_passes_at_once_under_plain_pytest(invoke: Invoke) -> None:
    for kind in ("distiller", "dataset"):
        invoke("new", kind, f"my_{kind}")
    path = os.pathsep.join(p for p in sys.path if p)
    run("pytest", "-q", "-p", "no:cacheprovider", "plugins", PYTHONPATH=path)


def test_a_package_says_where_its_component_is(invoke: Invoke) -> None:
    code, out, _ = invoke("new", "routing", "my_own", "--package", "--json")
    assert code == 0
    document = json.loads(out)
    assert "wbcbench-my-own/src/wbcbench_my_own/my_own.py" in document["files"]
    assert 'my_own = "wbcbench_my_own"' in Path("wbcbench-my-own/pyproject.toml").read_text()
    assert "register_routings" in Path("wbcbench-my-own/src/wbcbench_my_own/__init__.py").read_text()
    assert 'routing = "my_own"' in Path("wbcbench-my-own/tests/test_my_own.py").read_text()
    left = [
        f for f in Path("wbcbench-my-own").rglob("*") if f.is_file() and "My" in f.read_text().replace("MyOwn", "")
    ]
    assert not left, "a word of the template was not replaced"
    assert invoke("new", "routing", "my_own", "--package")[0] == 2


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("fusion", "gmu", r"'gmu' is built in .*gmu\.py:\d+\)\. Choose another name, such as 'my_gmu'"),
        ("distiller", "kd", "'logits' is built in"),
        ("backbone", "resnet18", "'timm' is built in"),
        ("fusion", "Gated-Mean", "Write 'gated_mean'"),
        ("fusion", "gatedMean", "Write 'gated_mean'"),
        ("fusion", "2gates", "Write 'gates'"),
        ("fusion", "../gates", "Write 'gates'"),
        ("fusion", "_gates", "begins with a letter"),
        ("fusion", "x" * 41, "at most 40"),
        ("fusion", "class", "reserved word"),
        ("fusion", "none", "reserved word"),
        ("fusion", "test_gates", "taken for a test"),
        ("fusion", "torch", "which a file torch.py would hide"),
        ("fusion", "random", "which a file random.py would hide"),
        ("fusio", "gates", "Did you mean 'fusion'"),
    ],
)
def test_names_that_it_refuses(kind: str, name: str, says: str, invoke: Invoke) -> None:
    import re

    code, out, err = invoke("new", kind, name)
    assert (code, out) == (2, "")
    assert re.search(says, err), err
    assert not os.listdir(".")


def test_nothing_is_overwritten(invoke: Invoke) -> None:
    invoke("new", "fusion", "mine")
    for kept in ("mine.py", "test_mine.py"):
        for file in Path("plugins").iterdir():
            file.unlink()
        (Path("plugins") / kept).write_text("# precious\n")
        code, _, err = invoke("new", "fusion", "mine")
        assert code == 2
        assert f"plugins/{kept}" in err
        assert [f.name for f in Path("plugins").iterdir()] == [kept]
        assert (Path("plugins") / kept).read_text() == "# precious\n"


def test_the_name_of_another_plugin_in_the_folder_is_taken(invoke: Invoke) -> None:
    invoke("new", "fusion", "mine")
    Path("plugins/mine.py").rename("plugins/other.py")
    Path("plugins/test_mine.py").unlink()
    code, _, err = invoke("new", "fusion", "mine")
    assert code == 2
    assert "offered by local.other" in err


def test_a_python_package_is_no_plugin_folder(invoke: Invoke) -> None:
    Path("plugins").mkdir()
    Path("plugins/__init__.py").touch()
    code, _, err = invoke("new", "fusion", "mine")
    assert code == 2
    assert "--plugins-dir my_plugins" in err
