"""Nothing that a user can name is without documentation, and the site is built from it without a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from wbcbench.contracts import hooks
from wbcbench.docs import component_page, described, index_page, kinds_and_components

ROOT = Path(__file__).parents[2]
ALL = [(kind, name) for kind, names in kinds_and_components().items() for name in names]


@pytest.mark.parametrize("kind", sorted(kinds_and_components()))
def test_every_component_says_what_it_is_and_where_it_comes_from(kind: str) -> None:
    for name in kinds_and_components()[kind]:
        told = described(kind, name)
        assert len(told["doc"].strip()) > 20, f"{kind} {name} has no docstring"
        if kind not in ("datasets", "backbones"):  # their sources are citations of their own, in the docstring
            assert told["source"], f"{kind} {name} states no source"
        for param in told["params"]:
            assert param["doc"], f"{kind} {name}: parameter {param['name']} has no description"


def test_pages_hold_what_show_tells() -> None:
    page = component_page("distillers", "dkd")
    assert "arXiv 2203.08679" in page
    assert "| `temperature` | `4.0` | > 0, <= 100 | 1.0 to 20.0 (log) |" in page
    assert "::: wbcbench_plugins.distillers.dkd" in page
    assert "wbcbench run --kd dkd" in page
    index = index_page(kinds_and_components())
    assert all(f"[`{name}`]({kind}/{name}.md)" in index for kind, name in ALL)


def test_every_hook_is_documented() -> None:
    found = [f for n, f in vars(hooks).items() if n.startswith("wbcbench_")]
    assert len(found) >= 8
    assert all(f.__doc__ for f in found)
    guide = (ROOT / "docs" / "pages" / "reference" / "hooks.md").read_text()
    assert "::: wbcbench.contracts.hooks" in guide


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install 'wbcbench[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "docs" / "mkdocs.yml"),
         "-d", str(tmp_path / "site")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "components" / "distillers" / "dkd.html").read_text()
    assert "target_class_kd" in page, "the formulas stand in the docstrings of the code"
    assert "KL(" in page
    for kind, name in ALL:
        assert (tmp_path / "site" / "components" / kind / f"{name}.html").is_file()
