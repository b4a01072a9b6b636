"""`wbcbench study`: every part of a study file, into one store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import evaluate_option, executor_options, json_option, load, plugin_options

if TYPE_CHECKING:
    from wbcbench.searches.study_run import Done, Planned

EPILOG = """\b
Examples:
  wbcbench study configs/studies/smoke.yaml --dry-run       parts, trials, what is done, what the rest will cost
  wbcbench study configs/studies/smoke.yaml
  wbcbench study study.yaml --only label_free,searches --executor ray --jobs 2
  wbcbench study study.yaml --evaluate full               + what networks do without some modalities, spoilt images
Run the same command again: it goes on where it stopped.
"""

_FLAGS = ("store", "device", "executor", "jobs", "cpus_per_trial", "gpus_per_trial", "ray_address")


@click.command("study", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--only", metavar="PART[,PART]", help="Some parts; default: all, in the file's order.")
@click.option(
    "--store", metavar="DIR", envvar="WBCBENCH_STORE", help="Where records are kept; default: the file's."
)
@click.option("--device", metavar="NAME", envvar="WBCBENCH_DEVICE", help="auto (default), cpu, cuda, cuda:1, mps.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any parameter, for every part.")
@click.option("--dry-run", is_flag=True, help="Show the parts and what is left to do, and stop.")
@evaluate_option
@executor_options
@json_option
@plugin_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Run every part of a study FILE: runs and searches, one after another, into one store.

    FILE has `common:` and `parts:`; each part is what `wbcbench run --config` (or, with `search:`, `wbcbench
    search`) would make of the two together. One with `finalists: {of: PART, count: 4}` takes the best methods of
    a part before it, by validation. A part that has failed trials does not stop the others.
    """
    from wbcbench.cli.output import print_json
    from wbcbench.cli.screens import screens
    from wbcbench.cli.summary import print_examinations
    from wbcbench.errors import ExitCode
    from wbcbench.searches.study_file import read_study
    from wbcbench.searches.study_run import plan_part, run_part

    flags = {name: options[name] for name in _FLAGS if options.get(name) is not None}
    only = [name.strip() for name in (options["only"] or "").split(",") if name.strip()]
    parts = read_study(options["file"], flags, options["sets"], only)
    registry, report = load(options["plugins"])
    plans = [plan_part(part, registry) for part in parts]  # all of them, before any training
    if options["dry_run"]:
        _dry_run(plans, options["as_json"])
        return
    _say_notes(plans)
    done, full = [], options["evaluate"] == "full"
    for number, planned in enumerate(plans):
        part = planned.part
        click.echo(f"Part {number + 1} of {len(plans)}: {part.name}", err=True)

        def shown(cells: int | None, store: str = part.request.store) -> Any:
            return screens(None, Path(store), cells)

        done.append(run_part(planned, registry, options["plugins"], report.observers, shown, full))
        click.echo(_line(done[-1]), err=options["as_json"])
        if not options["as_json"]:
            print_examinations(done[-1].examinations)
    if options["as_json"]:
        print_json({"parts": [_document(d, full) for d in done], "notes": _notes(plans)})
    else:
        click.echo(f"Next: wbcbench leaderboard --store {parts[0].request.store}")
    ctx.exit(ExitCode.SOME_FAILED if any(d.failed or d.failures for d in done) else ExitCode.OK)


def _notes(plans: list[Planned]) -> dict[str, list[str]]:
    return {p.part.name: p.plan.notes for p in plans if p.plan is not None and p.plan.notes}


def _say_notes(plans: list[Planned]) -> None:
    for name, notes in _notes(plans).items():
        for note in notes:
            click.echo(f"{name}: {note}", err=True)


def _dry_run(plans: list[Planned], as_json: bool) -> None:
    from dataclasses import asdict

    from wbcbench.cli.output import print_json, print_table
    from wbcbench.searches.study_run import costs

    found = {p.part.name: costs(p) for p in plans}
    if as_json:
        print_json({"parts": {name: asdict(c) for name, c in found.items()}, "notes": _notes(plans)})
        return
    rows = []
    for planned in plans:
        c = found[planned.part.name]
        time = "" if c.done == c.trials else "?" if c.seconds is None else f"~{c.seconds:.0f} s"
        kind = "run" if planned.plan is not None else f"search of {len(planned.searches)}"
        if planned.waits:
            assert planned.part.source is not None
            rows.append([planned.part.name, f"best of {planned.part.source.name}", "?", "", "chosen then", ""])
            continue
        rows.append([planned.part.name, kind, str(c.trials), str(c.done), time, str(c.unknown or "")])
    print_table(["part", "kind", "trials", "done", "left", "of unknown length"], rows)
    _say_notes(plans)


def _line(done: Done) -> str:
    count = {s: sum(o.status == s for o in done.outcomes) for s in ("done", "cached", "failed")}
    text = f"{done.part.name}: {count['done']} trained, {count['cached']} already in the store"
    text += f", {count['failed']} FAILED" if count["failed"] else ""
    first = [
        f"\n  {o.planned.trial.label}: {o.error.rstrip().splitlines()[-1]}" for o in done.failed[:3] if o.error
    ]
    return text + "." + "".join(first) + "".join(f"\n  {f}" for f in done.failures)


def _document(done: Done, full: bool) -> dict[str, Any]:
    from wbcbench.cli.summary import rows

    document = {"name": done.part.name, "records": rows(done.outcomes), "failures": done.failures}
    return document | ({"evaluations": done.examinations} if full else {})


__all__ = ["command"]
