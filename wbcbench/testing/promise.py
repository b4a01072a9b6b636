"""How a contract test fails: with what was found, what to do about it, and where in the component to look."""

from __future__ import annotations


class BrokenPromise(AssertionError):
    """A promise of a contract that a component does not keep. `str` is `found` and `mend`, two sentences or more.

    Attributes:
        found: what the test saw.
        mend: what the author of the component can do.
        method: the method of the component's class to look at; empty for the class.
        line: regular expression of the method's line to look at (the last such); empty for its first.
    """

    def __init__(self, found: str, mend: str, method: str = "", line: str = "") -> None:
        super().__init__(f"{found} {mend}")
        self.found, self.mend, self.method, self.line = found, mend, method, line


def promise(holds: object, found: str, mend: str, method: str = "") -> None:
    """Raise `BrokenPromise` unless `holds` is true."""
    if not holds:
        raise BrokenPromise(found, mend, method)


__all__ = ["BrokenPromise", "promise"]
