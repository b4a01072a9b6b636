"""What `export`, `predict` and `report` share: which record, in which store, and where its cells lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wbcbench.cli.complete import records

F = TypeVar("F", bound=Callable[..., Any])


def record_options(function: F) -> F:
    """Add the argument RECORD, `--store` and `--set`; the handler gets `record`, `store` and `sets`."""
    options = [
        click.argument("record", metavar="RECORD", shell_complete=records),
        click.option(
            "--store", envvar="WBCBENCH_STORE", type=click.Path(path_type=Path, file_okay=False),
            default=Path("wbcbench-store"), metavar="DIR", help="Where records are kept; default: wbcbench-store.",
        ),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE",
            help="Where the cells of the record lie: --set dataset.path=cells.npz",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


__all__ = ["record_options"]
