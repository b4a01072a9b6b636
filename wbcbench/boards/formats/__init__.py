"""Reports as text and files: readable tables (`tables`), tables for programs (`data`), and a web page (`page`).

To add a format, write `render_NAME(report, view) -> bytes` in one of these modules and add it to `FORMATS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from wbcbench.boards.model import Report
from wbcbench.errors import UsageError, did_you_mean

FORMATS = {
    "terminal": "tables",
    "plain": "tables",
    "markdown": "tables",
    "csv": "data",
    "latex": "tables",
    "json": "data",
    "parquet": "data",
    "html": "page",
}
"""Name -> the module that defines `render_NAME`."""
BINARY = frozenset({"parquet"})
"""Formats that cannot be printed in a terminal."""


@dataclass(frozen=True)
class View:
    """How readable tables are shown; csv, json and parquet always contain everything."""

    columns: tuple[str, ...] | None = None
    wide: bool = False
    width: int = 160
    """Width of the terminal, in characters."""
    colour: bool = False
    ids: bool = False
    """Terminal and plain text: also method and trial ids, and the keys of boards."""
    title: str | None = None
    """Heading of a page; None: the default."""


def render(report: Report, name: str, view: View | None = None) -> bytes:
    """The report in one of `FORMATS`; text is UTF-8.

    Raises:
        UsageError: an unknown format or column.
    """
    if name not in FORMATS:
        raise UsageError(
            f"No format is called '{name}'.{did_you_mean(name, FORMATS)} There are: {', '.join(FORMATS)}."
        )
    # Imported here: a page needs plotly, Parquet pyarrow, a terminal's table rich.
    module = importlib.import_module(f"{__name__}.{FORMATS[name]}")
    data: bytes = getattr(module, f"render_{name}")(report, view or View())
    return data


__all__ = ["BINARY", "FORMATS", "View", "render"]
