"""One CSV of all boards with full precision; a missing value is empty."""

from __future__ import annotations

import csv
import io
from typing import Any

from wbcbench.boards.formats import View
from wbcbench.boards.formats.flat import flat
from wbcbench.boards.model import Report
from wbcbench.boards.text import spreadsheet


def render(report: Report, view: View) -> bytes:
    """UTF-8; the first line has the names of the columns. Text that looks like a formula is defused."""
    rows = [flat(row, board) for board in report.boards for row in board.rows]
    if not rows:
        return b""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_cell(v) for v in row.values()] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return spreadsheet(value) if isinstance(value, str) else repr(value)
