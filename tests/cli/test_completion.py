"""What shells are offered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from wbcbench.cli.group import cli
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_record, fake_trial

MAIN = "from wbcbench.cli import main; main()"


def offered(*words: str) -> set[str]:
    """What is offered for the last word."""
    complete = BashComplete(cli, {}, "wbcbench", "_WBCBENCH_COMPLETE")
    return {item.value for item in complete.get_completions(list(words[:-1]), words[-1])}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("le",), {"leaderboard"}),
        (("leaderboard", "com"), {"compare"}),
        (("run", "--fusion", "indep"), {"independent"}),
        (("run", "--fusion", "early,indep"), {"early,independent"}),
        (("run", "--kd", "lskd+dk"), {"lskd+dkd"}),
        (("search", "--policy", "modality_d"), {"modality_dropout"}),
        (("run", "--dataset", "synth"), {"synthetic"}),
        (("run", "--track", "tensorboard,ml"), {"tensorboard,mlflow"}),
        (("run", "--executor", "in"), {"inline"}),
        (("show", "dis"), {"distiller"}),
        (("show", "fusion", "earl"), {"early"}),
        (("show", "nothing", "earl"), set()),
        (("list", "fu"), {"fusions"}),
        (("new", "fu"), {"fusion"}),
        (("check", "--kind", "dis"), {"distiller"}),
        (("data", "inspect", "cells", "--dataset", "bs"), {"bsccm"}),
        (("data", "audit", "cells", "--dataset", "bs"), {"bsccm"}),
    ],
)
def test_names(words: tuple[str, ...], expected: set[str]) -> None:
    assert offered(*words) == expected


def test_records_of_the_store(tmp_path: Path) -> None:
    record = fake_record(Store(tmp_path / "store"), fake_trial(0))
    for verb in ("submit", "report", "export", "predict"):
        assert offered(verb, "--store", str(tmp_path / "store"), record.trial.id[:3]) == {record.trial.id}
    assert offered("submit", "--store", str(tmp_path / "nowhere"), "") == set()


def test_check_takes_names_of_every_kind_and_files() -> None:
    assert {"mean", "mean_teacher"} <= offered("check", "mea")
    assert "mean_teacher" in offered("check", "--kind", "distiller", "mea")
    assert "mid_concat" not in offered("check", "--kind", "distiller", "mi")
    complete = BashComplete(cli, {}, "wbcbench", "_WBCBENCH_COMPLETE")
    assert [i.type for i in complete.get_completions(["check"], "plugins/m")] == ["file"]


def test_plugins_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from wbcbench.contracts import Fusion\n\n\n"
        'class Mine(Fusion):\n    """Mine."""\n\n    name = "early_mine"\n'
    )
    assert offered("run", "--plugins-dir", str(tmp_path), "--fusion", "early_") == {"early_mine"}


def test_the_script_works_in_bash(invoke: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    code, script, err = invoke("completion", "bash")
    assert code == 0
    assert "~/.bashrc" in err
    command = tmp_path / "wbcbench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{MAIN}" "$@"\n')
    command.chmod(0o755)
    asked = "COMP_WORDS=(wbcbench run --fusion indep); COMP_CWORD=3; _wbcbench_completion wbcbench"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}\necho ${{COMPREPLY[@]}}"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.strip() == "independent"
    for shell in ("zsh", "fish"):
        assert "_WBCBENCH_COMPLETE" in invoke("completion", shell)[1]
