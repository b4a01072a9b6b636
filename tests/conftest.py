"""Shared fixtures: tiny cells that train in a second, and the command line in this process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wbcbench.testing.records import write_cells

# Workers share the cores: more threads than one each would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests and the package are compiled once, also where the caller's shell says that no bytecode is to be kept:
# otherwise every worker, and every process that a test starts, compiles them again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TINY = ("--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6", "--device", "cpu", "--set", "threads=1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: a fifth of the suite waits for processes that are starting or dying."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


TRAINS = {"test_solves_the_problems_that_it_promises_to_solve", "test_overfits_a_few_cells"}
"""Of the contract of fusions: for all fusions together, these take most of a minute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with most slow tests first: workers take them in this order, and none is left alone with one."""
    for item in items:
        if getattr(item, "originalname", "") in TRAINS:
            item.add_marker("slow")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: tests of a module stay together


@pytest.fixture
def cells_file(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "cells.npz")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _short_stopwatch() -> None:
    """Every record times its network for a third of a second; a thousand tiny trials need not."""
    from wbcbench.evaluation.cost import latency

    assert latency.__kwdefaults__ is not None
    latency.__kwdefaults__["seconds"] = 0.0


@pytest.fixture(autouse=True, scope="session")
def _patient_probe() -> None:
    """The process that imports plugins need not import torch again after every half minute without a plugin."""
    from wbcbench.registry.probe import PROBE

    PROBE.idle = 1800


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run a verb in this process: `code, stdout, stderr = invoke("list", "fusions")`."""
    from wbcbench.cli import execute

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = execute(list(args))
        out, err = capsys.readouterr()
        return int(code), out, err

    return call


class Unprivileged:
    """Somebody whom permissions bind, also where the tests run as root, who may read and write everything."""

    NOBODY = 65534

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Theirs; pytest's own folders are closed to others."""

    def copy(self, source: Path) -> Path:
        """A copy of a folder that is theirs."""
        target = self.folder / source.name
        shutil.copytree(source, target)
        for path in (target, *target.rglob("*")) if os.geteuid() == 0 else ():
            os.chown(path, self.NOBODY, self.NOBODY)
        return target

    def run(self, function: Callable[[], object]) -> None:
        """Call the function as them: in a fork, if we are root. What it imports must be imported before."""
        if os.geteuid() != 0:
            function()
            return
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(self.NOBODY)
                os.setuid(self.NOBODY)
                function()
            except BaseException:
                os.write(writer, traceback.format_exc()[-60_000:].encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        if said:
            pytest.fail(said, pytrace=False)


@pytest.fixture
def unprivileged() -> Iterator[Unprivileged]:
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has other permissions")
    folder = Path(tempfile.mkdtemp(prefix="wbcbench-nobody-"))
    if os.geteuid() == 0:
        os.chown(folder, Unprivileged.NOBODY, Unprivileged.NOBODY)
    yield Unprivileged(folder)
    shutil.rmtree(folder)


@pytest.fixture
def train(invoke: Invoke, cells_file: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`wbcbench run --json` on the tiny cells; returns the document, checks the exit code."""

    def call(*args: str, store: str = "store", code: int = 0) -> dict[str, Any]:
        got, out, err = invoke(
            "run", "--dataset", "npz", "--set", f"dataset.path={cells_file}",
            "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]",
            "--store", str(tmp_path / store), "--epochs", "2", "--set", "batch_size=16", "--json", *TINY, *args,
        )  # fmt: skip
        assert got == code, err
        return json.loads(out) if out else {"stderr": err}  # type: ignore[no-any-return]

    return call
