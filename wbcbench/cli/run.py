"""`wbcbench run` and `wbcbench study`: train what is missing, show students and their teachers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import (
    choice_options,
    evaluate_option,
    executor_options,
    json_option,
    plugins_options,
    set_option,
)
from wbcbench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wbcbench.api.running import PlannedRun, Run
    from wbcbench.api.studying import PlannedStudy
    from wbcbench.searches.studies import Done

RUN_EPILOG = """\b
Examples:
  wbcbench run --fusion independent --kd logits
  wbcbench run --fusion single,early,late,independent --seeds 0,1,2
  wbcbench run --fusion independent:rho=0.2 --kd none,logits:temperature=2
  wbcbench run --dataset folder --set dataset.path=cells/manifest.csv --dry-run
  wbcbench run --config configs/jurkat_label_free.yaml
  wbcbench run --config configs/matrix_study.yaml --executor ray --jobs 8 --gpus-per-trial 0.25
"""
STUDY_EPILOG = """\b
Examples:
  wbcbench study configs/studies/smoke.yaml --dry-run       parts, trials, what is done, cost of the rest
  wbcbench study configs/studies/smoke.yaml
  wbcbench study study.yaml --only label_free,searches --executor ray --jobs 2
  wbcbench study study.yaml --evaluate full               + evaluation without some modalities, on corrupted images
Run the same command again to resume.
"""


@click.command("run", epilog=RUN_EPILOG)
@choice_options(seeds="One trial per seed; default: 0.")
@evaluate_option
@click.option("--dry-run", is_flag=True, help="Show the trials and which are done, and stop.")
@json_option
@plugins_options
@click.pass_context
def run(ctx: click.Context, /, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Train teachers once, then students, and record each as one immutable record.

    Comma-separated lists make the cross product. What is already in the store is not run again.
    """
    from wbcbench.api.running import RunRequest

    planned = RunRequest(**given).plan()
    if dry_run:
        _dry_run(planned, as_json)
        return
    from dataclasses import asdict

    from wbcbench.cli.output import print_examinations, print_summary, rows
    from wbcbench.scheduling.source import exit_code

    done = planned.run()
    if as_json:
        levelled = [{"method": title} | asdict(found) for title, found in done.levelled()]
        document = {"records": rows(done.outcomes, planned.request), "levelled": levelled, "notes": done.planning}
        print_json(document | ({"evaluations": done.examinations} if given["evaluate"] == "full" else {}))
    else:
        print_summary(done.outcomes, planned.plan, planned.request.store)
        _print_levelling(planned, done)
        print_examinations(done.examinations)
    ctx.exit(int(exit_code(done.outcomes)))


def _print_levelling(planned: PlannedRun, done: Run) -> None:
    """Whether training had levelled off and, if some method's had not, what twice as many epochs would cost."""
    from wbcbench.boards.text import clean

    if text := done.levelling():
        click.echo(clean(text))
    if any(found.verdict == "still improving" for _, found in done.levelled()):
        epochs, costs = planned.longer()
        left = [row for row in costs if not row["done"]]
        known = [row["estimated_seconds"] for row in left if row["estimated_seconds"] is not None]
        if left:
            time = f", about {sum(known):.0f} s" if len(known) == len(left) else ""
            trials = f"{len(left)} new trial{'s' * (len(left) > 1)}"
            click.echo(f"Longer: the same command with --epochs {epochs}, {trials}{time}.")


def _dry_run(planned: PlannedRun, as_json: bool) -> None:
    from dataclasses import asdict

    from wbcbench.data.auto import chosen_lines, chosen_note
    from wbcbench.scheduling.resources import GUESSED_SPEED, guessed_seconds
    from wbcbench.spec.trial import method_name

    rows, plan = planned.costs(), planned.plan
    if as_json:
        chosen = [asdict(c) for c in plan.chosen]
        print_json({"trials": rows, "notes": plan.notes, "chosen": chosen, "store": planned.request.store})
        return
    for note in (n for n in plan.notes if n not in chosen_note(plan.chosen)):
        click.echo(note, err=True)
    if plan.chosen:
        click.echo("\n  ".join(["Chosen for these cells:", *chosen_lines(plan.chosen)]), err=True)
    fold = ["fold"] if any(r["fold"] is not None for r in rows) else []
    unlike = [c for c, usual in (("freeze", "none"), ("image_size", rows[-1]["image_size"]))
              if any(r[c] != usual for r in rows)]  # fmt: skip
    columns = ["role", "method", "kd", "backbone", *unlike, "seed", *fold]
    columns += ["trial_id", "state", "cell_views", "seconds"]
    shown = [{**r, "method": method_name(r["method"], "none", r["policies"]), "seconds": _about(r)} for r in rows]
    shown = [{**r, "state": "done" if r["done"] else "to run"} for r in shown]
    print_table(columns, [[str(r[c]) for c in columns] for r in shown])
    left = [r for r in rows if not r["done"]]
    known = [r["estimated_seconds"] for r in left if r["estimated_seconds"] is not None]
    guess = sum(guessed_seconds(r) for r in left if r["estimated_seconds"] is None)
    told = [f"about {sum(known):.0f} s for {len(known)} of them, by earlier runs in this store"] if known else []
    if guess:
        told.append(
            f"{'the others' if known else 'no earlier run in this store to estimate from; they'} would take about "
            f"{guess:.0f} s on one core at {GUESSED_SPEED:,.0f} cells of up to 64 px a second, typical of a small "
            "network"
        )
    cost = "; ".join(told)
    click.echo(f"{len(rows) - len(left)} done, {len(left)} to run" + (f": {cost}." if left else "."))


def _about(row: dict[str, Any]) -> str:
    seconds = row["estimated_seconds"]
    return "" if row["done"] else "?" if seconds is None else f"~{seconds:.0f}"


@click.command("study", epilog=STUDY_EPILOG)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--only", metavar="PART[,PART]", help="Only these parts; default: all, in the file's order.")
@click.option("--store", metavar="DIR", help="Where records are stored; default: as in the file.")
@click.option("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps.")
@set_option("Any parameter, for every part.")
@click.option("--dry-run", is_flag=True, help="Show the parts and what is left to do, and stop.")
@evaluate_option
@executor_options
@json_option
@plugins_options
@click.pass_context
def study(ctx: click.Context, /, dry_run: bool, as_json: bool, only: str | None, **given: Any) -> None:
    """Run every part of a study FILE: runs and searches, one after another, into one store.

    FILE has `common:` and `parts:`; each part, merged with `common`, is run as by `wbcbench run --config` (or,
    with `search:`, by `wbcbench search`). A part with `finalists: {of: PART, count: 4}` takes the best methods of
    an earlier part, by validation. A part with failed trials does not stop the others.
    """
    from wbcbench.api.studying import StudyRequest

    planned = StudyRequest(only=only or (), **given).plan()
    if dry_run:
        _dry_study(planned, as_json)
        return
    from wbcbench.cli.output import print_examinations, rows
    from wbcbench.errors import ExitCode

    _say_notes(planned)

    def begins(number: int, name: str) -> None:
        click.echo(f"Part {number} of {len(planned.parts)}: {name}", err=True)

    def ended(part: Done) -> None:
        click.echo(_line(part), err=as_json)
        if not as_json:
            print_examinations(part.examinations)

    done = planned.run(begins=begins, ended=ended)
    if as_json:
        parts = []
        for part in done.parts:
            more = {"evaluations": part.examinations} if given["evaluate"] == "full" else {}
            records = rows(part.outcomes, part.part.request)
            parts.append({"name": part.part.name, "records": records, "failures": part.failures} | more)
        print_json({"parts": parts, "notes": planned.notes})
    else:
        store = str(planned.parts[0].part.request.store)
        click.echo(f"Next: wbcbench leaderboard --store {shlex.quote(store)}")
    ctx.exit(ExitCode.SOME_FAILED if done.failed or done.failures else ExitCode.OK)


def _say_notes(planned: PlannedStudy) -> None:
    for name, notes in planned.notes.items():
        for note in notes:
            click.echo(f"{name}: {note}", err=True)


def _dry_study(planned: PlannedStudy, as_json: bool) -> None:
    from dataclasses import asdict

    found = planned.costs()
    if as_json:
        print_json({"parts": {name: asdict(c) for name, c in found.items()}, "notes": planned.notes})
        return
    rows = []
    for one in planned.parts:
        c = found[one.part.name]
        time = "" if c.done == c.trials else "?" if c.seconds is None else f"~{c.seconds:.0f} s"
        kind = "run" if one.plan is not None else f"search of {len(one.searches)}"
        if one.waits:
            assert one.part.source is not None
            rows.append([one.part.name, f"best of {one.part.source.name}", "?", "", "chosen then", ""])
            continue
        rows.append([one.part.name, kind, str(c.trials), str(c.done), time, str(c.unknown or "")])
    print_table(["part", "kind", "trials", "done", "left", "of unknown length"], rows)
    _say_notes(planned)


def _line(done: Done) -> str:
    count = {s: sum(o.status == s for o in done.outcomes) for s in ("done", "cached", "failed")}
    text = f"{done.part.name}: {count['done']} trained, {count['cached']} already in the store"
    text += f", {count['failed']} FAILED" if count["failed"] else ""
    first = [
        f"\n  {o.planned.trial.label}: {o.error.rstrip().splitlines()[-1]}" for o in done.failed[:3] if o.error
    ]
    return text + "." + "".join(first) + "".join(f"\n  {f}" for f in done.failures)


__all__ = ["run", "study"]
