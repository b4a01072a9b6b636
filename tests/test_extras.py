"""What only some commands need may be absent: the main job works without, and others name what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import wbcbench
from wbcbench.errors import EXTRAS, MissingExtraError

ROOT = Path(__file__).parents[1]
DISTRIBUTION = {"skimage": "scikit-image", "mlflow": "mlflow-skinny"}
HIDE = """import sys
for name in {names}:
    sys.modules[name] = None
from wbcbench.cli import execute
sys.exit(execute(sys.argv[1:]))
"""
Train = Callable[..., dict[str, Any]]


def without(names: list[str], *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which these modules cannot be imported."""
    return subprocess.run([sys.executable, "-c", HIDE.format(names=names), *args], capture_output=True, text=True)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def test_every_extra_installs_what_it_is_named_for() -> None:
    extras = project()["optional-dependencies"]
    (everything,) = (Requirement(r) for r in extras["all"])
    for module, extra in EXTRAS.items():
        assert DISTRIBUTION.get(module, module) in {Requirement(r).name for r in extras[extra]}
        assert extra in everything.extras
    hard = {Requirement(r).name for r in project()["dependencies"]}
    assert not hard & {DISTRIBUTION.get(m, m) for m in EXTRAS}


@pytest.mark.slow
def test_the_main_job_needs_no_extra(train: Train, cells_file: Path, tmp_path: Path) -> None:
    absent = [m for m in EXTRAS if m not in ("jinja2", "markupsafe", "tensorboardX")]  # torch and Ray bring these
    words = (
        "--fusion", "early", "--kd", "logits", "--dataset", "npz", "--set", f"dataset.path={cells_file}",
        "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]", "--backbone", "cellnet:width=4",
        "--teacher", "cellnet:width=4", "--epochs", "1", "--device", "cpu", "--store", str(tmp_path / "store"),
    )  # fmt: skip
    for command in (("run", *words), ("leaderboard", "--store", str(tmp_path / "store")), ("list",), ("doctor",)):
        done = without(absent, *command)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("plotly", ("leaderboard", "--format", "html", "-o", "page.html")),
        ("itables", ("leaderboard", "--format", "html", "-o", "page.html")),
        ("matplotlib", ("leaderboard", "plot", "--kind", "bars", "--save", "bars.svg")),
        (
            "skimage",
            (
                "run",
                "--dataset",
                "stains",
                "--set",
                "dataset.base=npz",
                "--set",
                "dataset.base_params.path=a.npz",
            ),
        ),
        (
            "cmaes",
            ("search", "--fusion", "early", "--sampler", "cmaes", "--trials", "2",
             "--space", "training.class_weighting=none"),
        ),
        ("wandb", ("run", "--fusion", "early", "--track", "wandb")),
    ],
)  # fmt: skip
def test_a_command_that_needs_one_names_it(
    module: str, args: tuple[str, ...], tmp_path: Path, train: Train
) -> None:
    import numpy as np

    train("--fusion", "early,concat", "--seeds", "0,1")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", image=rng.integers(0, 256, (60, 16, 16, 3), np.uint8), label=np.arange(60) % 2)
    code = f"import os\nos.chdir({str(tmp_path)!r})\n" + HIDE.format(names=[module])
    done = subprocess.run(
        [sys.executable, "-c", code, *args, "--store", "store"], capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'wbcbench[{EXTRAS[module]}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_python_it_is_an_error_of_ours(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("--fusion", "early")
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    for name in [
        n for n in sys.modules if n.startswith(("wbcbench.boards.figures", "wbcbench.boards.formats.page"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "wbcbench.deploy.report", raising=False)
    record = wbcbench.load_records(tmp_path / "store")[0]
    with pytest.raises(MissingExtraError, match=r"wbcbench\[pages\]"):
        wbcbench.report(record.path, tmp_path / "page.html")
