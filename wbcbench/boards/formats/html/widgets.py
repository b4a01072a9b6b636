"""DataTables' options: search, sort, filter, choice of columns, CSV of what is shown. Configuration, no code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FILTERS = ("fusion", "kd", "backbone")
_ALWAYS = ("rank", "method")


def options(names: Sequence[str], shown: Sequence[str], file: str) -> dict[str, Any]:
    """Of one table.

    Args:
        names: of all columns, in their order.
        shown: of those that are visible at first.
        file: name of the CSV, without ending.
    """
    filters = [names.index(n) for n in FILTERS]
    return {
        "paging": False,
        "order": [],
        "scrollX": True,
        "autoWidth": False,
        "fixedColumns": {"start": 2},
        "stateSave": True,
        "columnDefs": [
            {"visible": False, "targets": [i for i, n in enumerate(names) if n not in shown]},
            {"searchPanes": {"show": True}, "targets": filters},
            {"searchPanes": {"show": False}, "targets": [i for i in range(len(names)) if i not in filters]},
        ],
        "buttons": [
            {"extend": "searchPanes", "text": "Filter",
             "config": {"cascadePanes": True, "layout": "columns-3", "columns": filters}},
            {"extend": "colvis", "text": "Columns",
             "columns": [i for i, n in enumerate(names) if n not in _ALWAYS]},
            # A stranger's name must not be a formula in the reader's spreadsheet.
            {"extend": "csvHtml5", "text": "CSV of what is shown", "filename": f"board-{file}",
             "exportOptions": {"columns": ":visible", "escapeExcelFormula": True}},
        ],
        "layout": {"topStart": "buttons", "topEnd": "search", "bottomStart": "info", "bottomEnd": None},
        "language": {"search": "Search", "info": "_TOTAL_ of _MAX_ rows", "infoFiltered": "",
                     "infoEmpty": "0 of _MAX_ rows", "zeroRecords": "No row is like that.",
                     "searchPanes": {"collapse": {"0": "Filter", "_": "Filter (%d)"}}},
    }  # fmt: skip


__all__ = ["FILTERS", "options"]
