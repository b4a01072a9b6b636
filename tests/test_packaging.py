"""What a wheel holds: pyproject.toml lists packages and data files by hand; an editable install hides a gap."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbcbench import __version__

ROOT = Path(__file__).parents[1]
TOP = {"wbcbench": ROOT / "wbcbench", "wbcbench_plugins": ROOT / "plugins"}


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]  # type: ignore[no-any-return]


def test_every_package_is_listed(listed: dict[str, Any]) -> None:
    there = [
        ".".join((top, *init.parent.relative_to(folder).parts))
        for top, folder in TOP.items()
        for init in folder.rglob("__init__.py")
    ]
    assert listed["packages"] == sorted(there)


def test_every_module_is_in_a_package() -> None:
    templates = TOP["wbcbench"] / "scaffold" / "templates"  # read as text, never imported
    for folder in TOP.values():
        for module in folder.rglob("*.py"):
            assert module.parent == templates or (module.parent / "__init__.py").is_file(), module


def test_every_data_file_is_listed(listed: dict[str, Any]) -> None:
    base = TOP["wbcbench"]
    packed = {p for pattern in listed["package-data"]["wbcbench"] for p in base.glob(pattern) if p.is_file()}
    for file in base.rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".pyc"):
            assert file in packed, file


def test_a_release_has_one_version_and_one_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## \[(\d\S*)\] - (\S+)$", changelog, re.MULTILINE)[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (version, date) == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__
