"""The result of one promise of a contract, and where in the component to look."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wbcbench.testing
from wbcbench.errors import UsageError
from wbcbench.testing.promise import BrokenPromise


@dataclass(frozen=True)
class Verdict:
    """One promise, kept or broken."""

    test: str
    """Name of the contract's test."""
    promise: str
    """The promise in plain words."""
    ok: bool
    found: str = ""
    """What the test saw, or why it was not run; empty if the promise is kept."""
    fix: str = ""
    """What to do about it; empty if the error states it."""
    where: str = ""
    """`file:line` of the component to look at; empty if unknown."""
    traceback: str = ""


@dataclass(frozen=True)
class Findings:
    """The results of a contract's promises."""

    verdicts: tuple[Verdict, ...] = ()
    waiting: tuple[str, ...] = ()
    """Promises that were not checked, because the one that they depend on is broken."""


def broken(test: str, promise: str, error: BaseException, cls: type) -> Verdict:
    """The verdict on a test of component `cls` that raised."""
    found, fix, method, line = f"It raised {type(error).__name__}: {_short(error)}", "", "", ""
    if isinstance(error, BrokenPromise):
        found, fix, method, line = error.found, error.fix, error.method, error.line
    elif isinstance(error, AssertionError):
        found = _short(error)
    trace = "".join(traceback.format_exception(error))
    where = _raised_at(error, cls) or _defined_at(cls, method, found, line)
    return Verdict(test, promise, False, found, fix, where, trace)


def _short(error: BaseException) -> str:
    text = str(error).strip() or "no message"
    return text if len(text) <= 400 else f"{text[:400]} ..."


def _raised_at(error: BaseException, cls: type) -> str:
    """The deepest line of the component's own code (its file, or its package's folder) that the error passed."""
    home = _home(cls)
    if home is None:
        return ""
    places = [
        f"{frame.filename}:{frame.lineno}"
        for one in _causes(error)
        for frame in traceback.extract_tb(one.__traceback__)
        if Path(frame.filename) == home
        or (home.name == "__init__.py" and home.parent in Path(frame.filename).parents)
    ]
    return places[-1] if places else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _defined_at(cls: type, method: str, found: str, last: str) -> str:
    """Where the class's method is written, or the class if the method is inherited from the contract.

    Within the method, the last line that the pattern `last` matches, or the line that assigns the attribute that
    `found` names, if there is one.
    """
    named = re.search(r"`self\.(\w+)", found)
    assigns = rf"\bself\.{named[1]}\s*[:=]" if named else ""
    for owner in cls.__mro__ if method else ():
        if method in vars(owner) and not owner.__module__.startswith(("wbcbench.contracts", "torch", "builtins")):
            member = vars(owner)[method]
            member = member.fget if isinstance(member, property) else member
            return _line(member, -1, last) if last else _line(member, 0, assigns)
    return _line(cls)


def _line(thing: object, hit: int = 0, pattern: str = "") -> str:
    try:
        lines, first = inspect.getsourcelines(thing)  # type: ignore[arg-type]
        file = inspect.getsourcefile(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    hits = [i for i, line in enumerate(lines) if pattern and re.search(pattern, line)]
    return f"{file}:{first + (hits[hit] if hits else 0)}"


def _home(cls: type) -> Path | None:
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return None
    return Path(file) if file else None


FIRST = "test_types"
"""The test of the promise that all others of a contract depend on: if it is broken, they are not checked."""
_FILE = "contract"
_OPTIONS = (
    "--assert=plain", "--capture=sys", "--import-mode=importlib",
    *(f"-pno:{name}" for name in ("terminal", "cacheprovider", "faulthandler", "logging", "warnings", "doctest")),
    "-pno:unraisableexception", "-pno:threadexception",  # the former collects all garbage five times: seconds
)  # fmt: skip


def check_component(
    kind: str,
    cls: type,
    params: dict[str, Any],
    done: Callable[[Verdict], None] = lambda _: None,
    only: str = "",
    known: tuple[Verdict, ...] = (),
) -> Findings:
    """Every promise of the kind's contract, in the contract's order; the first alone if it is broken.

    Args:
        kind: of the component.
        cls: its class.
        params: for its `Params`, where not the defaults.
        done: called with each verdict as soon as it is known.
        only: check only the promises that contain these words, in their text or the name of their test. The first
            is always checked, and reported if it is broken.
        known: verdicts that the caller already has, which the words may match.

    Raises:
        UsageError: no promise contains the words.
    """
    contract = getattr(wbcbench.testing, f"{kind.capitalize()}Contract")
    subject = "component" if kind == "dataset" else kind
    case = type("TestContract", (contract,), {subject: cls, "params": params})
    recorder = _Recorder(case, cls, done, only)
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
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and only:
        if any(_meant(only, v.test, v.promise) for v in known):
            return Findings()
        promises = dict.fromkeys([*(v.promise for v in known), *recorder.promises.values()])
        raise UsageError(f"Expected words of a promise, but '{only}' is in none of: {' '.join(promises)}")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return recorder.finish()


class _Recorder:
    """A pytest plugin: collects the contract as if it were in a file, and keeps the result of each test."""

    def __init__(self, case: type, cls: type, done: Callable[[Verdict], None], only: str) -> None:
        self.case, self.cls, self.done, self.only = case, cls, done, only
        self.promises: dict[str, str] = {}
        """Test -> what it promises."""
        self.chosen: list[str] = []
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

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.promises = {_test(item): self._said(_test(item)) for item in items}
        self.chosen = [t for t, said in self.promises.items() if _meant(self.only, t, said)]
        tried = {FIRST, *self.chosen} if self.chosen else set()
        items[:] = sorted((i for i in items if _test(i) in tried), key=lambda i: _test(i) != FIRST)

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        return True if self._first_is_broken() and _test(item) != FIRST else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        test = _test(item)
        if self.running not in ("", test):
            self._tell(self.running)
        self.running = test
        known = self.verdicts.get(test)
        if known is None or known.ok:  # a test with several parameters: the first failure counts
            self.verdicts[test] = Verdict(test, self.promises[test], True)
            if report.skipped:
                reason = getattr(getattr(call.excinfo, "value", None), "msg", None) or "skipped"
                self.verdicts[test] = Verdict(test, self.promises[test], True, f"Not checked: {reason}.")
            elif call.excinfo is not None:
                self.verdicts[test] = broken(test, self.promises[test], call.excinfo.value, self.cls)
        return report

    def finish(self) -> Findings:
        if self.running:
            self._tell(self.running)
        waiting = [t for t in self.chosen if t not in self.verdicts]
        return Findings(
            tuple(v for t, v in self.verdicts.items() if self._told(t)), tuple(self.promises[t] for t in waiting)
        )

    def _first_is_broken(self) -> bool:
        return FIRST in self.verdicts and not self.verdicts[FIRST].ok

    def _said(self, test: str) -> str:
        """The promise: the first line of the test's docstring."""
        doc = getattr(self.case, test).__doc__ or test.removeprefix("test_").replace("_", " ")
        return str(doc).strip().splitlines()[0]

    def _told(self, test: str) -> bool:
        return test in self.chosen or not self.verdicts[test].ok

    def _tell(self, test: str) -> None:
        if self._told(test):
            self.done(self.verdicts[test])


def _test(item: pytest.Item) -> str:
    """The test's name without parameters."""
    return getattr(item, "originalname", None) or item.name


def _meant(words: str, test: str, promise: str) -> bool:
    return words.lower() in test or words.lower() in promise.lower()


@contextmanager
def _own_environment() -> Iterator[None]:
    """Ignore the user's options and plugins of pytest."""
    kept = {k: os.environ.pop(k) for k in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if k in os.environ}
    autoload = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(kept if autoload is None else {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": autoload})


__all__ = ["Findings", "Verdict", "broken", "check_component"]
