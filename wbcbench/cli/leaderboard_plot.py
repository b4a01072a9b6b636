"""`wbcbench leaderboard plot`: a board as a figure for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wbcbench.cli.leaderboard import board_options, opened, options_from, store_option

KINDS = ("pareto", "cd", "heatmap", "bars", "missing")


@click.command("plot")
@click.option("--kind", type=click.Choice(KINDS), default="pareto", show_default=True)
@click.option("--save", "target", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="File that ends in .pdf, .svg or .png.")  # fmt: skip
@click.option("--cost", type=click.Choice(["macs", "params", "latency"]), default="macs", show_default=True,
              help="Horizontal axis of pareto.")  # fmt: skip
@store_option
@board_options
def command(kind: str, target: Path, cost: str, stores: tuple[Path, ...], **values: Any) -> None:
    """Draw one board (cd: several data sets) as a vector figure with labelled axes and colour-blind-safe colours.

    Equal records give equal bytes.
    """
    from wbcbench.boards.build import report
    from wbcbench.boards.plots import save

    save(report(opened(stores), options_from(values)), kind, target, cost)
    click.echo(target)


__all__ = ["command"]
