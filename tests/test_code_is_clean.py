"""ruff, mypy and import-linter find nothing, and no module imports itself by way of others."""

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


def test_imports_point_one_way() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_no_import_circle() -> None:
    import grimp
    import networkx

    graph = grimp.build_graph("wbcbench", exclude_type_checking_imports=True, cache_dir=None)
    arrows = [(m, d) for m in graph.modules for d in graph.find_modules_directly_imported_by(m)]
    circles = [c for c in networkx.strongly_connected_components(networkx.DiGraph(arrows)) if len(c) > 1]
    assert circles == []
