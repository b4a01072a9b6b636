"""ruff and mypy find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    # plugins/ is installed under another name, through an import hook that mypy does not follow
    (tmp_path / "wbcbench_plugins").symlink_to(ROOT / "plugins")
    run("mypy", "-p", "wbcbench", "-p", "wbcbench_plugins", "--cache-dir", str(tmp_path / "cache"),
        MYPYPATH=str(tmp_path))  # fmt: skip
