"""`wbcbench data import`: from folders, a CSV or an .npz to what a run reads."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import click

from wbcbench.cli.data_inspect import SHOWN, print_list, print_taken
from wbcbench.cli.data_options import Source, source_options
from wbcbench.cli.options import json_option
from wbcbench.cli.output import print_json


@click.command("import")
@source_options
@click.option("-o", "--output", "dest", required=True, type=click.Path(path_type=Path), metavar="DEST",
              help="A folder that is not there yet.")  # fmt: skip
@click.option("--copy", is_flag=True, help="Copy the images; else they are referred to where they lie.")
@click.option("--copies", type=click.Choice(["drop", "keep"]), default="drop", show_default=True,
              help="Of cells with equal pixels drop all but one (all if labels differ), or none.")  # fmt: skip
@json_option
def command(source: Source, dest: Path, copy: bool, copies: Literal["drop", "keep"], as_json: bool) -> None:
    """Write DEST from PATH: dataset.yaml for `wbcbench run --config`, a manifest (or cells.npz), import.json.

    It says what each column was taken for, and what was dropped and why; import.json holds all of it. DEST appears
    whole or not at all.
    """
    from wbcbench.data.intake import plan_intake, write_intake
    from wbcbench.data.reading import CONFIG
    from wbcbench.errors import DataError

    if dest.exists():  # before hours of reading
        raise DataError(f"Expected a new folder, but {dest} is there. Choose another with -o, or remove it.")
    survey = source.survey()
    intake = plan_intake(survey, copies)
    report = write_intake(survey, intake, dest, copy)
    run = shlex.join(["wbcbench", "run", "--config", str(dest / CONFIG)])
    if as_json:
        print_json({**report, "dest": str(dest), "commands": [run]})
        return
    print_taken(report["taken"])
    for note in report["notes"]:
        click.echo(f"note: {note}")
    print_list("dropped", report["dropped"], SHOWN)
    click.echo(f"{dest}: {report['cells']} cells brought in, {len(report['dropped'])} dropped")
    click.echo(f"\nTo train on these cells:\n  {run}")
