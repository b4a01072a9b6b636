"""Output on which the content of files has no effect: control and bidirectional characters are escaped.

`execute` replaces stdout and stderr, so whatever a verb prints, warnings and errors included, is escaped here.
Text drawn by the program itself, such as tables in bold, is written to `drawn(stream)`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_ACTIVE = (
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)"  # C0 without tab and line feed, DEL, C1
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # marks that change the direction of writing
    r"|[\u2028\u2029\ud800-\udfff]"  # line separators; bytes of file names that are not UTF-8
)
_ANY = re.compile(_ACTIVE)
_LINE = re.compile(rf"[\t\r\n]|{_ACTIVE}")
# Colours, moves of the cursor and erased lines, as rich writes them; everything else is escaped there too.
_DRAWN = re.compile(rf"(?P<drawn>\x1b\[[0-9;?]*[A-HJKfhlm]|\r)|{_ACTIVE}")


_COLOURS = (
    (re.compile(r"^(?:Error|Failed|refused)(?=:)|\bFAILED\b", re.MULTILINE), "31"),
    (re.compile(r"^(?:Warning|Note)(?=:)", re.MULTILINE), "33"),
    (re.compile(r"^(?:\d+ trained|Nothing left to do)\b", re.MULTILINE), "32"),
)
"""What begins a message -> its colour on a terminal: errors red, warnings yellow, what is done green."""


def coloured(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours, and the user wants them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def inert(text: str) -> str:
    r"""Escape control and bidirectional characters as `\u202e`, which is also how JSON spells them."""
    return _ANY.sub(_escaped, text)


def one_line(text: object) -> str:
    """The same with tabs and line ends too: for a value within a line, such as a label or a file name."""
    return _LINE.sub(_escaped, str(text))


class InertStream:
    """Text stream that escapes what is written to it; everything else is the original stream's."""

    def __init__(self, stream: TextIO, pattern: re.Pattern[str] = _ANY) -> None:
        self.stream, self._pattern = stream, pattern

    encoding = "utf-8"
    """For callers that would bypass an ASCII stream: `write` escapes what the stream cannot encode."""

    def write(self, text: str) -> int:
        """Escape and write."""
        safe = self._pattern.sub(lambda m: m[0] if m.groupdict().get("drawn") else _escaped(m), text)
        if self._pattern is _ANY and coloured(self.stream):
            for words, colour in _COLOURS:
                safe = words.sub(lambda m, c=colour: f"\x1b[{c}m{m[0]}\x1b[0m", safe)  # type: ignore[misc]
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(safe.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """See `write`."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def drawn(stream: TextIO) -> TextIO:
    """`stream`, to which the program itself may write colours; the values in such text must be `one_line`."""
    if isinstance(stream, InertStream):
        return cast(TextIO, InertStream(stream.stream, _DRAWN))
    return stream


def make_streams_inert() -> None:
    """Replace stdout and stderr until the process ends."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None and not isinstance(stream, InertStream):
            setattr(sys, name, InertStream(stream))


@contextmanager
def inert_streams() -> Iterator[None]:
    """Replace stdout and stderr inside the `with` block."""
    before = sys.stdout, sys.stderr
    make_streams_inert()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
