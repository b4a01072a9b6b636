"""`wbcbench data inspect`: what is at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wbcbench.cli.data_options import Source, source_options
from wbcbench.cli.options import json_option
from wbcbench.cli.output import print_json, print_table

SHOWN = 20


@click.command("inspect")
@source_options
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png",
              help="Write a contact sheet: a few cells of each class, in each modality.")  # fmt: skip
@json_option
def command(source: Source, sheet: Path | None, as_json: bool) -> None:
    """Say what is at PATH: cells, classes, modalities, groups, split, copies, files that cannot be read."""
    from wbcbench.data.intake import facts, run_commands
    from wbcbench.data.sheet import TILE, contact_sheet
    from wbcbench.data.survey import sheet_cells

    survey = source.survey()
    document = facts(survey)
    document["commands"] = run_commands(survey, source.flags())
    if sheet is not None:
        contact_sheet(sheet_cells(survey, 8, TILE), sheet)
        document["sheet"] = str(sheet)
    print_json(document) if as_json else _print(document)


def _print(d: dict[str, Any]) -> None:
    click.echo(f"{d['path']}: {d['cells']} cells, {len(d['classes'])} classes\n")
    print_taken(d["taken"])
    print_table(["class", "cells", "share"], [[c["name"], c["cells"], f"{c['share']:.1%}"] for c in d["classes"]])
    click.echo()
    rows = [[m["name"], m["channels"], m["dtype"], _side(m), m["missing"] or ""] for m in d["modalities"]]
    print_table(["modality", "channels", "dtype", "side", "cells without"], rows)
    click.echo()
    g = d["groups"]
    counted = g and f"{g['count']} of {g['smallest']} to {g['largest']} cells (median {g['median']:g})"
    click.echo(f"groups: {counted or 'none known: cells of one donor may stand on two sides of a split'}")
    split = d["split"] and ", ".join(f"{side} {n}" for side, n in d["split"].items())
    click.echo(f"split: {split or 'none: a run makes one'}")
    _print_copies(d["copies"])
    print_list("cannot be used", d["unusable"], SHOWN)
    for note in d["notes"]:
        click.echo(f"note: {note}")
    if "sheet" in d:
        click.echo(f"contact sheet: {d['sheet']}")
    click.echo("\nTo train on these cells:\n" + "\n".join(f"  {line}" for line in d["commands"]))


def print_taken(taken: list[dict[str, str]]) -> None:
    """What each column, folder level or array was taken for."""
    if taken:
        print_table(["found", "taken for"], [[t["what"], t["for"]] for t in taken])
        click.echo()


def print_list(what: str, rows: list[dict[str, str]], shown: int) -> None:
    """`what: N`, then the first few with reasons."""
    if rows:
        click.echo(f"{what}: {len(rows)}")
        for row in rows[:shown]:
            click.echo(f"  {row['what']}: {row['why']}")
        if len(rows) > shown:
            click.echo(f"  ... and {len(rows) - shown} more")


def _print_copies(c: dict[str, Any]) -> None:
    if not c["images"]:
        click.echo("copies: none")
    else:
        click.echo(
            f"copies: {c['images']} images occur more than once, in {c['cells']} cells; on two sides of the "
            f"official split: {c['across_official_split']}; under two labels: {c['of_two_labels']}"
        )
        for cells in c["examples"]:
            click.echo(f"  {' = '.join(cells)}")
    if c["groups_across_official_split"]:
        click.echo(f"groups on two sides of the official split: {c['groups_across_official_split']}")
    for modality, cells in c["of_one_modality_only"].items():
        click.echo(f"copies in {modality} alone: {cells} cells share its image and differ in another modality")


def _side(m: dict[str, Any]) -> str:
    low, high = m["side"]
    side = f"{low} px" if low == high else f"{low} to {high} px"
    return f"{side}, {m['not_square']} not square" if m["not_square"] else side
