"""`wbcbench data audit`: does the split that a run would use leak?"""

from __future__ import annotations

from typing import Any, Literal

import click

from wbcbench.cli.data_options import Source, source_options
from wbcbench.cli.options import json_option
from wbcbench.cli.output import print_json
from wbcbench.errors import ExitCode

SHOWN = 50


@click.command("audit")
@source_options
@click.option("--scheme", type=click.Choice(["official", "stratified"]), default="official", show_default=True,
              help="official: the set's own split, if any; stratified: one that wbcbench makes.")  # fmt: skip
@click.option("--allow-leaks", is_flag=True, help="Report, but exit 0.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, source: Source, scheme: Literal["official", "stratified"],
    allow_leaks: bool, as_json: bool,
) -> None:  # fmt: skip
    """Exit 3 if a group or an image is on two sides of the split that a run would use, or an image has two labels.

    A run refuses the same, unless split.allow_leaks=true is set, which its comparison key then carries. Where
    groups are known, a split that wbcbench makes never has one on two sides.
    """
    from wbcbench.data.intake import audit

    spec = source.split(scheme=scheme)
    survey = source.survey()
    found, allowed = audit(survey, spec), allow_leaks or spec.allow_leaks
    document = {
        "path": str(survey.path), "cells": len(survey), "groups": len(survey.group_names) or None,
        **found.document(survey), "unusable": len(survey.unusable), "leaks": bool(found.leaks), "allowed": allowed,
    }  # fmt: skip
    print_json(document) if as_json else _print(document)
    ctx.exit(ExitCode.NOT_COMPARABLE if found.leaks and not allowed else ExitCode.OK)


def _print(d: dict[str, Any]) -> None:
    sizes = ", ".join(f"{side} {n}" for side, n in d["sizes"].items())
    click.echo(f"{d['path']}: {d['cells']} cells, {d['scheme']} split: {sizes}")
    if d["groups"] is None:
        click.echo("groups: none known, so nothing can be said of donors (--group COLUMN names them)")
    for torn in _some(d["groups_on_two_sides"], "groups on two sides"):
        sides = ", ".join(f"{side} {torn[side]}" for side in ("train", "val", "test") if torn[side])
        click.echo(f"  {torn['group']}: {sides}")
    for cells in _some(d["images_on_two_sides"], "images on two sides"):
        click.echo("  " + " = ".join(f"{c['cell']} ({c['side']})" for c in cells))
    for cells in _some(d["images_of_two_labels"], "images under two labels"):
        click.echo("  " + " = ".join(f"{c['cell']} ({c['label']})" for c in cells))
    if d["unusable"]:
        click.echo(f"not judged: {d['unusable']} files or rows that cannot be used (`data inspect` names them)")
    if not d["leaks"]:
        click.echo("No leak found.")
    elif d["allowed"]:
        click.echo("Leaks found, and allowed. A run needs --set split.allow_leaks=true, and its key says so.")
    else:
        click.echo(
            "Leaks found: a run refuses this split. `wbcbench data import` drops copies; split.scheme=stratified "
            "keeps groups whole; split.allow_leaks=true trains nevertheless, and the comparison key says so."
        )


def _some(found: list[Any], what: str) -> list[Any]:
    """Print how many there are; return the first few."""
    click.echo(f"{what}: {len(found) or 'none'}")
    return found[:SHOWN]
