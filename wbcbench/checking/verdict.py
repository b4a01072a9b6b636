"""What became of one promise of a contract, and where in the component to look."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """What the test saw; empty if the promise is kept."""
    mend: str = ""
    """What to do about it; empty where the error says it itself."""
    where: str = ""
    """`file:line` of the component to look at; empty if unknown."""
    traceback: str = ""


@dataclass(frozen=True)
class Findings:
    """What became of the promises of a contract."""

    verdicts: tuple[Verdict, ...] = ()
    waiting: tuple[str, ...] = ()
    """Promises that were not tried, because the one that they rest on is broken."""


def broken(test: str, promise: str, error: BaseException, cls: type) -> Verdict:
    """The verdict on a test of component `cls` that raised."""
    found, mend, method, line = f"It raised {type(error).__name__}: {_short(error)}", "", "", ""
    if isinstance(error, BrokenPromise):
        found, mend, method, line = error.found, error.mend, error.method, error.line
    elif isinstance(error, AssertionError):
        found = _short(error)
    trace = "".join(traceback.format_exception(error))
    where = _raised_at(error, cls) or _defined_at(cls, method, found, line)
    return Verdict(test, promise, False, found, mend, where, trace)


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
    """Where the class's method is written, or the class where the method is inherited from the contract.

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


__all__ = ["Findings", "Verdict", "broken"]
