"""Ray's private parts: in one file, for one release, and there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import ray
from packaging.requirements import Requirement
from packaging.version import Version

import wbcbench
from wbcbench.scheduling import ray_private

PRIVATE = re.compile(r"ray\.(?:\w+\.)*_(?!_)\w+|from ray import _\w+|ray\.tune\.execution")


def test_one_file_has_them_all() -> None:
    package = Path(wbcbench.__file__).parent
    found = {p.name for p in package.rglob("*.py") if PRIVATE.search(p.read_text(encoding="utf-8"))}
    assert found == {"ray_private.py"}


def test_the_release_that_is_installed_is_the_one_that_was_tested() -> None:
    assert ray.__version__.startswith(f"{ray_private.TESTED}."), "see wbcbench/scheduling/ray_private.py"
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [d for d in tomllib.loads(text)["project"]["dependencies"] if d.startswith("ray")]
    bound = Requirement(line).specifier
    major, minor = map(int, ray_private.TESTED.split("."))
    assert f"{major}.{minor}.9" in bound
    assert Version(f"{major}.{minor + 1}") not in bound


def test_the_names_are_there() -> None:
    from ray import _raylet
    from ray._private import ray_constants, worker
    from ray.tune.constants import TUNE_ENV_VARS

    assert "TUNE_FUNCTION_THREAD_TIMEOUT_S" in TUNE_ENV_VARS  # set in ray_worker.py
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, str)
    assert callable(_raylet.Config.initialize)
    assert callable(_raylet.AuthenticationTokenLoader.instance().reset_cache)
    assert callable(worker.print_to_stdstream)
