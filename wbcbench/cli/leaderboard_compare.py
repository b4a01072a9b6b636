"""`wbcbench leaderboard compare`: one pair of methods in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wbcbench.cli.leaderboard import board_options, opened, options_from, store_option
from wbcbench.cli.options import json_option


@click.command("compare")
@click.argument("a")
@click.argument("b")
@store_option
@board_options
@json_option
def command(a: str, b: str, stores: tuple[Path, ...], as_json: bool, **values: Any) -> None:
    """Explain the difference between methods A and B.

    Each is a row's name as the table shows it, or the beginning of a method's or a trial's id.
    """
    from wbcbench.boards.compare import explain
    from wbcbench.boards.text import clean
    from wbcbench.cli.output import print_json

    found = explain(opened(stores), a, b, options_from(values))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in found.lines():
        indent = len(line) - len(line.lstrip())
        click.echo(" " * indent + clean(line).lstrip())
