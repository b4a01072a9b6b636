"""Installed plugins: a distribution's entry points, seen by a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two distributions: one good with a lazy component, one that cannot be imported."""
    (tmp_path / "good_plugin").mkdir()
    (tmp_path / "good_plugin" / "__init__.py").write_text(
        "from wbcbench.hookspecs import hookimpl\n@hookimpl\ndef wbcbench_register_distillers(register):\n"
        "    register('far', 'good_plugin.far:Far', aliases=('f',))\n"
    )
    (tmp_path / "good_plugin" / "far.py").write_text(
        "import torch\nfrom wbcbench.contracts import Distiller, Needs\nclass Far(Distiller):\n"
        "    'From afar.'\n    name = 'far'\n    aliases = ('f',)\n    needs = Needs(labels=True)\n"
    )
    (tmp_path / "bad_plugin.py").write_text(
        "import not_installed_here\ndef f(register):\n    register('sad', 'a:B')\n"
    )
    for name, module, version in (("good", "good_plugin", "1.2"), ("bad", "bad_plugin", "0.3")):
        info = tmp_path / f"wbcbench_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: wbcbench-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[wbcbench]\n{name} = {module}\n")
    return tmp_path


def wbcbench(site: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "wbcbench", *args], capture_output=True, text=True, cwd=site,
        env={**os.environ, "PYTHONPATH": path, **env},
    )  # fmt: skip


def test_installed_plugins_are_listed_with_version_and_reason(site):
    plugins = {p["provider"]: p for p in json.loads(wbcbench(site, "plugins", "--json").stdout)["plugins"]}
    assert (plugins["good"]["status"], plugins["good"]["version"], plugins["good"]["components"]) == (
        "ok",
        "1.2",
        1,
    )
    assert plugins["bad"]["status"] == "failed"
    assert "not_installed_here" in plugins["bad"]["reason"]
    assert "traceback" not in plugins["bad"]
    assert "Traceback" in wbcbench(site, "plugins", "--verbose").stdout


def test_a_broken_neighbour_is_one_warning_unless_it_is_asked_for(site):
    shown = wbcbench(site, "show", "distiller", "f", "--json")
    assert shown.returncode == 0
    document = json.loads(shown.stdout)
    assert (document["qualified_name"], document["needs"]["labels"]) == ("good/far", True)
    assert document["summary"] == "From afar."
    assert shown.stderr.count("Warning") == 1
    asked = wbcbench(site, "show", "distiller", "sad")
    assert asked.returncode == 4
    assert "not_installed_here" in asked.stderr


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--no-plugins=bad"], {}),
        (["--no-plugins=wbcbench-bad"], {}),
        ([], {"WBCBENCH_DISABLE_PLUGINS": "x,wbcbench_bad"}),
    ],
)
def test_blocking_by_entry_point_or_distribution_name(site, args, env):
    done = wbcbench(site, "plugins", "--json", *args, **env)
    status = {p["provider"]: p["status"] for p in json.loads(done.stdout)["plugins"]}
    assert (status["bad"], status["good"]) == ("blocked", "ok")


def test_blocking_all_without_a_value_does_not_eat_the_next_word(site):
    done = wbcbench(site, "list", "--no-plugins", "distillers", "--json")
    assert list(json.loads(done.stdout)) == ["distillers"]
    assert '"far"' not in done.stdout
    assert done.stderr == ""
