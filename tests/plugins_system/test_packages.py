"""Packages from outside of the tree, built by pip and installed into an environment of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from wbcbench.scaffold import write_package
from wbcbench.testing.records import write_cells

PACKAGES = Path(__file__).parent / "packages"
MISSING = [name for name in ("pip", "setuptools") if importlib.util.find_spec(name) is None]


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml is explicit: what it lacks is there in a checkout and in no wheel."""
    root = Path(__file__).parents[2]
    told = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        str(folder.parent.relative_to(root)).replace("/", ".")
        for top in ("wbcbench", "plugins")
        for folder in (root / top).rglob("__init__.py")
        if "templates" not in folder.parts
    }
    assert set(told) == {name.replace("plugins", "wbcbench_plugins", 1) if name.startswith("plugins") else name
                         for name in found}  # fmt: skip


class Environment:
    """A virtual environment on top of the running one, into which nothing is downloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        below = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()}
        (library,) = (folder / "lib").glob("python*/site-packages")
        # addsitedir, so that an editable install of wbcbench in the running environment counts too
        lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(below)]
        (library / "below.pth").write_text("".join(lines))

    def install(self, source: Path) -> None:
        copy = self.folder / "sources" / source.name  # building writes into the source tree
        shutil.copytree(source, copy)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
        offline = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *offline, str(copy)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def wbcbench(self, *args: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WBCBENCH_")}
        path = os.pathsep.join(p for p in sys.path if p)
        done = subprocess.run(
            [str(self.python), "-m", "wbcbench", *args], capture_output=True, text=True, cwd=self.folder,
            env={**kept, "WBCBENCH_CACHE": str(self.folder / "cache"), "PYTHONPATH": path, **more},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def status(self, *args: str, **more: str) -> dict[str, tuple[str, str, str]]:
        """Provider -> (status, version, reason)."""
        found = json.loads(self.wbcbench("plugins", "--json", *args, **more).stdout)["plugins"]
        return {p["provider"]: (p["status"], p["version"], p["reason"]) for p in found}


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"building packages offline needs {' and '.join(MISSING)}")
def test_packages_in_an_environment_of_their_own(tmp_path: Path) -> None:
    env = Environment(tmp_path / "env")

    # Found through its entry point, shown with its version, and trained with.
    env.install(PACKAGES / "wbcbench-softer")
    assert env.status()["softer"] == ("ok", "1.2", "")
    shown = json.loads(env.wbcbench("show", "distiller", "gentle", "--json").stdout)
    assert (shown["qualified_name"], shown["provider_version"]) == ("softer/softer", "1.2")
    assert shown["origin"].startswith(str(tmp_path))
    cells = write_cells(tmp_path / "cells.npz")
    data = ("--dataset", "npz", "--set", f"dataset.path={cells}", "--epochs", "1", "--device", "cpu")
    nets = ("--fusion", "early", "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=4")
    done = env.wbcbench("run", *data, *nets, "--kd", "softer", "--set", "threads=1", "--json")
    student = json.loads(done.stdout)["records"][-1]
    assert student["status"] == "done"
    assert "softer/softer" in json.dumps(student)

    # The source of an installed copy is no rival of it.
    checked = env.wbcbench("check", str(PACKAGES / "wbcbench-softer"), "--only", "its name")
    assert checked.stdout.startswith("distiller local.wbcbench_softer/softer (")

    # Blocked by the entry point's or the distribution's name: absent, said so, never imported.
    for args, more in (
        (["--no-plugins=softer"], {}),
        (["--no-plugins"], {}),
        ([], {"WBCBENCH_DISABLE_PLUGINS": "wbcbench-softer"}),
    ):
        state, _, reason = env.status(*args, **more)["softer"]
        assert state == "blocked"
        assert "blocked" in reason
    assert "blocked" in env.wbcbench("show", "distiller", "softer/softer", "--no-plugins=softer", code=2).stderr

    # Names that another package, or wbcbench itself, has: both stay, neither answers to the bare name.
    env.install(PACKAGES / "wbcbench-rival")
    assert {env.status()[p][0] for p in ("softer", "rival")} == {"ok"}
    clashes = json.loads(env.wbcbench("plugins", "--json").stdout)["clashes"]
    assert sorted(c.split("'")[1] for c in clashes) == ["gmu", "softer"]
    for kind, name, owners in (
        ("fusion", "gmu", ("wbcbench", "rival")),
        ("distiller", "softer", ("rival", "softer")),
    ):
        refused = env.wbcbench("show", kind, name, code=2).stderr
        for owner in owners:
            assert f"'{owner}/{name}'" in refused
            shown = json.loads(env.wbcbench("show", kind, f"{owner}/{name}", "--json").stdout)
            assert shown["provider"] == owner
    assert "'wbcbench/gmu'" in env.wbcbench("run", *data, "--fusion", "gmu", "--dry-run", code=2).stderr
    plain = json.loads(env.wbcbench("show", "fusion", "gmu", "--json", "--no-plugins=rival").stdout)
    assert plain["provider"] == "wbcbench"

    # Written for another version of the hooks: refused with both numbers; asking for it ends with 4.
    files = write_package("fusion", "later", tmp_path / "new").files
    hooks = next(f for f in files if f.name == "__init__.py")
    hooks.write_text(hooks.read_text().replace("wbcbench_api = 1", "wbcbench_api = 99"))
    env.install(tmp_path / "new" / "wbcbench-later")
    state, version, reason = env.status()["later"]
    assert (state, version) == ("failed", "0.1.0")
    assert "hook API 99, but this wbcbench has 1" in reason
    assert env.status()["softer"][0] == "ok"
    assert "hook API 99" in env.wbcbench("show", "fusion", "later", code=4).stderr
    assert "hook API 99" in env.wbcbench("check", "later", code=4).stderr
