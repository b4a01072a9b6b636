"""Print for people or for programs: documents and tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from wbcbench.spec.request import Request


def print_json(document: Any) -> None:
    """One JSON document on stdout. NaN and infinities have no JSON form and are an error."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on stdout: with rich on a terminal, aligned plain text elsewhere (never cut off)."""
    cells = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*columns, title=title or None, title_justify="left", box=None, header_style="bold")
        for row in cells:
            table.add_row(*map(escape, row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    if title:
        click.echo(title)
    for row in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_typed(path: Path, request: Request) -> str:
    """A path in the store, beginning with what the user called the store."""
    return os.path.join(request.store, path.relative_to(request.root))


__all__ = ["as_typed", "print_json", "print_table"]
