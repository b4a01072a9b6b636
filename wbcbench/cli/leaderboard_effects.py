"""`wbcbench leaderboard effects`: what one part of a method is worth on average."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.leaderboard import board_options, opened, options_from, store_option
from wbcbench.cli.options import json_option

if TYPE_CHECKING:
    from wbcbench.boards.effects import Effects


@click.command("effects")
@click.option("--of", type=click.Choice(["fusion", "kd", "backbone", "policy"]), default="fusion",
              show_default=True, help="What is varied; all else is equal.")  # fmt: skip
@click.option("--against", metavar="LEVEL", help="What the others are measured against; default: early, or none.")
@store_option
@board_options
@json_option
def command(of: Any, against: str | None, stores: tuple[Path, ...], as_json: bool, **values: Any) -> None:
    """Average paired differences over every block in which both levels were run.

    A block is the same distiller, teachers, backbone, policies and recipe for --of fusion, and so on. `ahead` says
    in how many of the blocks the level leads. * is beyond noise after Holm's correction for the levels shown.
    """
    from wbcbench.boards.effects import effects
    from wbcbench.cli.output import print_json

    found = effects(opened(stores), of, options_from(values), against)
    if as_json:
        print_json({"effects": [e.model_dump(mode="json") for e in found]})
        return
    for i, board in enumerate(found):
        if i:
            click.echo()
        _show(board)


def _show(board: Effects) -> None:
    from tabulate import tabulate

    from wbcbench.boards.columns import HEADERS
    from wbcbench.boards.text import clean

    key = board.key
    click.echo(clean(f"{key.dataset}: {' + '.join(key.modalities)} (key {board.board})"))
    seeds = ", ".join(map(str, board.seeds))
    click.echo(clean(f"{HEADERS[board.by]} of each {board.of} minus {board.against}, seeds {seeds}"))
    rows = [
        (
            clean(e.level),
            f"{e.lead:+.3f}{'*' if e.beyond_noise else ' '}",
            f"{e.low:+.3f} to {e.high:+.3f}",
            f"{e.p_holm:.2g}" if e.p_holm >= 1e-4 else "< 0.0001",
            f"{e.ahead} of {e.blocks}",
            "" if e.macs is None else f"{e.macs:.2f}x",
        )
        for e in board.effects
    ]
    click.echo(
        tabulate(
            rows, headers=(board.of, "lead", "95 %", "p (Holm)", "ahead", "MACs"), disable_numparse=True,
            colalign=("left", "right", "right", "right", "right", "right"),
        )
    )  # fmt: skip
    if board.alone:
        click.echo(clean(f"No block in common with {board.against}: {', '.join(board.alone)}"))


__all__ = ["command"]
