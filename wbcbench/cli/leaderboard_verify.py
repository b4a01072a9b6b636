"""`wbcbench leaderboard verify`: is a pack from a stranger what it says?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import json_option, load, plugin_options

if TYPE_CHECKING:
    from wbcbench.publishing.verdict import Judge
    from wbcbench.records.store import Record
    from wbcbench.registry import Registry


@click.command("verify", short_help="Judge a pack of records: accept, needs a look, or refuse.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="STORE",
    help="A store or a published board that is trusted: labels, splits, copies and jumps are compared with it.",
)  # fmt: skip
@click.option("--rerun", is_flag=True, help="If nothing was refused: train one seed again and compare.")
@click.option("--trial", metavar="ID", help="Which submitted trial to train again; default: the first.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=0.02, show_default=True,
    help="How far macro-F1 of the rerun may be from the pack's.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Where to train again: auto, cpu, cuda, ...")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE",
    help="Where the data lie, for --rerun: --set dataset.path=cells.npz",
)  # fmt: skip
@json_option
@plugin_options
@click.pass_context
def command(ctx: click.Context, /, pack: Path, **options: Any) -> None:
    """Judge a pack that `wbcbench submit` made, or somebody else did.

    Exit status 0: accepted, or needs a look (read why); 3: refused.
    """
    from wbcbench.publishing.board_files import PROTOCOL, read_asked
    from wbcbench.publishing.rerun import choose
    from wbcbench.publishing.sources import reference_at
    from wbcbench.publishing.verify import checked, installed_by, solved_once_by

    registry, _ = load(options["plugins"])
    against = options["against"]
    asked = read_asked(against) if against and (against / PROTOCOL).is_file() else None
    with (
        reference_at(against) if against else nullcontext() as reference,
        checked(pack, reference, solved_once_by(registry), asked=asked, installed=installed_by(registry)) as (
            judge,
            records,
            submitted,
        ),
    ):
        if options["rerun"] and judge.verdict != "refuse":
            _rerun(choose(records, submitted, options["trial"]), judge, registry, options)
        elif options["rerun"]:
            judge.notes.append("Nothing was trained again: the pack is refused without it.")
    if options["as_json"]:
        from wbcbench.cli.output import print_json

        print_json({"pack": str(pack), **judge.document()})
    else:
        _print(pack, judge)
    ctx.exit(int(judge.exit_code))


def _rerun(record: Record, judge: Judge, registry: Registry, options: dict[str, Any]) -> None:
    from wbcbench.cli.progress import RunDisplay
    from wbcbench.publishing.rerun import chain, rerun

    trials = len(chain(record.trial))
    click.echo(f"Training {record.trial.id} again: {trials} trials with its teachers.", err=True)
    with TemporaryDirectory(prefix="wbcbench-rerun-") as folder, RunDisplay(trials) as display:
        rerun(
            record, judge, registry, display,
            store=Path(folder), sets=options["sets"], tolerance=options["tolerance"], device=options["device"],
        )  # fmt: skip


def _print(pack: Path, judge: Judge) -> None:
    from wbcbench.cli.output import print_table
    from wbcbench.publishing.verdict import CHECKS

    print_table(["check", "result", "what it asks"], [[n, judge.state(n), CHECKS[n]] for n in CHECKS])
    click.echo()
    for finding in judge.findings:
        click.echo(f"{finding.level}: {finding.check}, {finding.where}: {finding.text}")
    for note in judge.document()["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"{pack}: {judge.verdict}")


__all__ = ["command"]
