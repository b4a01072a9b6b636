"""Run the contract tests of one component with pytest, in this process, apart from the user's pytest set-up."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wbcbench.testing
from wbcbench.checking.verdict import Verdict, broken

_FILE = "contract"
_OPTIONS = (
    "--assert=plain", "--capture=sys", "--import-mode=importlib",
    *(f"-pno:{name}" for name in ("terminal", "cacheprovider", "faulthandler", "logging", "warnings", "doctest")),
)  # fmt: skip


def check_component(
    kind: str, cls: type, params: dict[str, Any], done: Callable[[Verdict], None] = lambda _: None
) -> list[Verdict]:
    """Every promise of the kind's contract, in the contract's order.

    Args:
        kind: of the component.
        cls: its class.
        params: for its `Params`, where not the defaults.
        done: called with each verdict as soon as it stands.
    """
    contract = getattr(wbcbench.testing, f"{kind.capitalize()}Contract")
    subject = "component" if kind == "dataset" else kind
    case = type("TestContract", (contract,), {subject: cls, "params": params})
    recorder = _Recorder(case, cls, done)
    with tempfile.TemporaryDirectory(prefix="wbcbench-check-") as name, _own_environment():
        folder = Path(name)
        (folder / _FILE).touch()
        (folder / "pytest.ini").write_text("[pytest]\n")
        where = (
            f"-c{folder / 'pytest.ini'}",
            f"--rootdir={folder}",
            f"--basetemp={folder / 'run'}",
            "--noconftest",
        )
        code = pytest.main([*_OPTIONS, *where, str(folder / _FILE)], plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return recorder.finish()


class _Recorder:
    """A pytest plugin: collects the contract as if it stood in a file, and keeps what became of each test."""

    def __init__(self, case: type, cls: type, done: Callable[[Verdict], None]) -> None:
        self.case, self.cls, self.done = case, cls, done
        self.verdicts: dict[str, Verdict] = {}
        self.running = ""

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        if file_path.name != _FILE:
            return None
        module = pytest.Module.from_parent(parent, path=file_path)
        holder = ModuleType("wbcbench_contract")
        holder.TestContract = self.case  # type: ignore[attr-defined]
        module.obj = holder
        return module

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        test = getattr(item, "originalname", item.name)
        if self.running not in ("", test):
            self._tell(self.running)
        self.running = test
        known = self.verdicts.get(test)
        if known is None or known.ok:  # a test with several parameters: the first failure counts
            said = (getattr(self.case, test).__doc__ or test.removeprefix("test_").replace("_", " ")).strip()
            self.verdicts[test] = Verdict(test, said.splitlines()[0], True)
            if call.excinfo is not None and not report.skipped:
                self.verdicts[test] = broken(test, said.splitlines()[0], call.excinfo.value, self.cls)
        return report

    def finish(self) -> list[Verdict]:
        if self.running:
            self._tell(self.running)
        return list(self.verdicts.values())

    def _tell(self, test: str) -> None:
        self.done(self.verdicts[test])


@contextmanager
def _own_environment() -> Iterator[None]:
    """Neither options nor pytest plugins of the user."""
    kept = {k: os.environ.pop(k) for k in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if k in os.environ}
    autoload = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(kept if autoload is None else {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": autoload})


__all__ = ["check_component"]
