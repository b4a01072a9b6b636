"""Python, packages, extras, plugins and variables."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

import wbcbench
from wbcbench.doctor.examination import Finding, Findings
from wbcbench.errors import did_you_mean
from wbcbench.records.environment import version_of

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions

IMPORTED = ("torch", "torchvision", "timm", "ray", "optuna", "pandas", "sklearn")
"""Imported, since these can be installed and still not load: built for another torch, or a library missing."""
_OWN_VARIABLES = ("STORE", "CACHE", "PLUGIN_PATH", "DISABLE_PLUGINS", "PLUGIN_TIMEOUT", "TRACEBACK", "DATA")


def python() -> Findings:
    """The interpreter, and whether it is an environment of its own."""
    own = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if own:
        yield Finding("Python", "ok", text)
    else:
        fix = f"python3 -m venv .venv && .venv/bin/pip install {_requirement()}"
        yield Finding("Python", "note", f"{text}, not in an environment of its own", fix)


def packages() -> Findings:
    """Every requirement is there in a version that will do, and loads."""
    try:
        needed = [Requirement(text) for text in metadata.requires("wbcbench") or []]
    except metadata.PackageNotFoundError:
        text = "wbcbench runs from a folder and is not installed"
        yield Finding("packages", "problem", text, f"pip install {_requirement()}")
        return
    wrong = False
    for one in needed:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        have = version_of(one.name)
        if have is None or not one.specifier.contains(have, prereleases=True):
            wrong = True
            state = "is not installed" if have is None else f"is {have}"
            wanted = f"{one.name}{one.specifier}"
            yield Finding(
                "packages", "problem", f"{one.name} {state}, {wanted} is needed", f"pip install '{wanted}'"
            )
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            wrong = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            fix = "pip install --force-reinstall torch torchvision timm" if "torch" in reason + name else (
                f"pip install --force-reinstall {name}")  # fmt: skip
            yield Finding("packages", "problem", f"{name} is installed but does not load: {reason}", fix)
    if not wrong:
        shown = ", ".join(f"{n} {version_of(n)}" for n in ("wbcbench", "torch", "timm", "ray", "optuna"))
        yield Finding("packages", "ok", shown)


def extras() -> Findings:
    """Which optional parts are there."""
    if version_of("wbcbench") is None:
        return  # `packages` says so
    have: dict[str, bool] = {}
    for text in metadata.requires("wbcbench") or []:
        one = Requirement(text)
        named = re.search(r"""extra == ["']([^"']+)["']""", str(one.marker))
        if named is not None:
            have[named[1]] = have.get(named[1], True) and version_of(one.name) is not None
    there = sorted(e for e, whole in have.items() if whole)
    missing = sorted(e for e, whole in have.items() if not whole)
    text = f"installed: {', '.join(there) or 'none'}"
    if missing:
        text += f"; not installed: {', '.join(missing)}"
    yield Finding("extras", "ok", text, f"pip install {_requirement(missing)}" if missing else "")


def _requirement(extras: Sequence[str] = ()) -> str:
    """What pip is told to install: wbcbench from where this one came, which need not be an index."""
    named = f"[{','.join(extras)}]" if extras else ""
    try:
        origin = json.loads(metadata.distribution("wbcbench").read_text("direct_url.json") or "{}")
        path = Path(unquote(urlsplit(str(origin.get("url", ""))).path)) if "dir_info" in origin else None
        editable = bool(origin.get("dir_info", {}).get("editable"))
    except metadata.PackageNotFoundError:
        path, editable = Path(wbcbench.__file__).parents[1], True
    if path is None or not path.is_dir():
        return f"'wbcbench{named}'" if named else "wbcbench"
    where = "." if path == Path.cwd() else str(path)
    return ("-e " if editable else "") + (f"'{where}{named}'" if named or " " in where else where)


def loaded(options: PluginOptions) -> Findings:
    """What became of every plugin."""
    from wbcbench.registry.loading import load_plugins

    _, report = load_plugins(options)
    for plugin in report.failed:
        fix = f"`wbcbench plugins --verbose` shows the traceback; --no-plugins={plugin.provider} leaves it out"
        yield Finding("plugins", "problem", f"{plugin.provider} was not loaded: {plugin.reason}", fix)
    for plugin in report.plugins:
        if plugin.status == "blocked":
            yield Finding("plugins", "note", f"{plugin.provider} is blocked: {plugin.reason}")
    for skipped in (s for p in report.plugins for s in p.skipped):
        yield Finding("plugins", "note", skipped)
    for clash in report.clashes:
        yield Finding("plugins", "note", f"name clash: {clash}")
    fine = [p for p in report.plugins if p.status == "ok"]
    total = sum(p.components for p in fine)
    yield Finding("plugins", "ok", f"{len(fine)} loaded, {total} components")


def variables() -> Findings:
    """`WBCBENCH_*` variables: what they say, and those that nobody reads."""
    from wbcbench.cli.choices import FLAGS

    known = {*(f"WBCBENCH_{n.upper()}" for n in (*FLAGS, "track")), *(f"WBCBENCH_{n}" for n in _OWN_VARIABLES)}
    given = sorted(n for n in os.environ if n.startswith("WBCBENCH_"))
    for name in given:
        if name not in known:
            text = f"{name} is set, and nothing reads it.{did_you_mean(name, sorted(known))}"
            yield Finding("variables", "problem", text, f"unset {name}")
    shown = ", ".join(f"{n}={os.environ[n]}" for n in given if n in known)
    yield Finding("variables", "ok", shown or "none set")


__all__ = ["extras", "loaded", "packages", "python", "variables"]
