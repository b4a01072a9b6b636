"""Reports -> text and files. One module per format, each with `render(report, view) -> bytes`.

To add a format, write the module and name it in `FORMATS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from wbcbench.boards.model import Report
from wbcbench.errors import UsageError, did_you_mean

FORMATS: dict[str, str] = {
    "terminal": "wbcbench.boards.formats.terminal",
    "plain": "wbcbench.boards.formats.plain",
    "markdown": "wbcbench.boards.formats.markdown",
    "csv": "wbcbench.boards.formats.csv_file",
    "latex": "wbcbench.boards.formats.latex",
    "json": "wbcbench.boards.formats.json_document",
    "parquet": "wbcbench.boards.formats.parquet",
    "html": "wbcbench.boards.formats.html",
}
"""Name -> module."""
BINARY = frozenset({"parquet"})
"""Not for a terminal."""


@dataclass(frozen=True)
class View:
    """How tables for people are shown; csv, json and parquet always hold everything."""

    columns: tuple[str, ...] | None = None
    wide: bool = False
    width: int = 160
    """Of a terminal, in characters."""
    colour: bool = False
    title: str | None = None
    """Heading of a page; None: that of wbcbench."""


def render(report: Report, name: str, view: View | None = None) -> bytes:
    """The report in one of `FORMATS`, UTF-8 where it is text.

    Raises:
        UsageError: an unknown format or column.
    """
    if name not in FORMATS:
        raise UsageError(
            f"No format is called '{name}'.{did_you_mean(name, FORMATS)} There are: {', '.join(FORMATS)}."
        )
    data: bytes = importlib.import_module(FORMATS[name]).render(report, view or View())
    return data


__all__ = ["BINARY", "FORMATS", "View", "render"]
