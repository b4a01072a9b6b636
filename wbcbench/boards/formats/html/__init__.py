"""One self-contained page: opens from disk, asks no network, holds every table, figure and source.

DataTables comes with itables, plots with plotly; both are written into the page once: 6 MB, 4.8 of them plotly.js,
of which the Python package ships no smaller bundle.
"""

from __future__ import annotations

from wbcbench.boards.formats import View
from wbcbench.boards.formats.html.page import page
from wbcbench.boards.model import Report


def render(report: Report, view: View) -> bytes:
    """The page, UTF-8. Equal reports give equal bytes."""
    return page(report, view).encode()
