"""`wbcbench run`: plan, train what is missing, show students beside their teachers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.choices import choice_options, given
from wbcbench.cli.options import evaluate_option, json_option, load, plugin_options

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wbcbench.registry import Registry
    from wbcbench.registry.loading import LoadReport
    from wbcbench.scheduling.plan import Plan
    from wbcbench.scheduling.source import Screen
    from wbcbench.spec.request import Request

EPILOG = """\b
Examples:
  wbcbench run --fusion independent --kd logits
  wbcbench run --fusion single,early,late,independent --seeds 0,1,2
  wbcbench run --fusion independent:rho=0.2 --kd none,logits:temperature=2
  wbcbench run --dataset folder --set dataset.path=cells/manifest.csv --dry-run
  wbcbench run --config configs/jurkat_label_free.yaml
  wbcbench run --config configs/matrix_study.yaml --executor ray --jobs 8 --gpus-per-trial 0.25
"""


@click.command("run", epilog=EPILOG)
@choice_options(seeds="One trial per seed; default: 0.")
@evaluate_option
@click.option("--dry-run", is_flag=True, help="Show the trials, which are done, and stop.")
@json_option
@plugin_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Train teachers once, then students, and record each as one immutable record.

    Comma lists make the cross product. What is in the store already is not run again.
    """
    from wbcbench.scheduling.plan import make_plan
    from wbcbench.spec.load import load_request

    request = load_request(options["config"], given(options), options["sets"])
    registry, report = load(options["plugins"])
    plan = make_plan(request, registry)
    if options["dry_run"]:
        _dry_run(plan, request, options["as_json"])
        return
    ctx.exit(_run(plan, request, registry, report, options))


def _dry_run(plan: Plan, request: Request, as_json: bool) -> None:
    from wbcbench.cli.output import print_json, print_table
    from wbcbench.records.store import Store
    from wbcbench.scheduling.estimate import GUESSED_SPEED, estimate
    from wbcbench.spec.trial import method_name

    rows = estimate(plan, Store(Path(request.store)))
    if as_json:
        print_json({"trials": rows, "notes": plan.notes, "store": request.store})
        return
    for note in plan.notes:
        click.echo(note, err=True)
    columns = ["role", "method", "kd", "backbone", "seed", "trial_id", "state", "cell_views", "seconds"]
    shown = [{**r, "method": method_name(r["method"], "none", r["policies"]), "seconds": _about(r)} for r in rows]
    shown = [{**r, "state": "done" if r["done"] else "to run"} for r in shown]
    print_table(columns, [[str(r[c]) for c in columns] for r in shown])
    left = [r for r in rows if not r["done"]]
    known = [r["estimated_seconds"] for r in left if r["estimated_seconds"] is not None]
    guess = sum(r["cell_views"] for r in left if r["estimated_seconds"] is None) / GUESSED_SPEED
    told = [f"about {sum(known):.0f} s for {len(known)} of them, by earlier runs in this store"] if known else []
    if guess:
        told.append(
            f"{'the others' if known else 'no earlier run in this store tells how long; they'} would take about "
            f"{guess:.0f} s of one core at {GUESSED_SPEED:,.0f} cells a second, which a small network may reach"
        )
    cost = "; ".join(told)
    click.echo(f"{len(rows) - len(left)} done, {len(left)} to run" + (f": {cost}." if left else "."))


def _about(row: dict[str, Any]) -> str:
    seconds = row["estimated_seconds"]
    return "" if row["done"] else "?" if seconds is None else f"~{seconds:.0f}"


def _run(plan: Plan, request: Request, registry: Registry, report: LoadReport, options: dict[str, Any]) -> int:
    from wbcbench.cli.output import print_json
    from wbcbench.cli.summary import document, print_examinations, print_summary
    from wbcbench.scheduling.execute import carry_out
    from wbcbench.scheduling.source import exit_code

    def shown(trials: int) -> AbstractContextManager[Screen]:
        from wbcbench.cli.screens import screens
        from wbcbench.scheduling.estimate import train_cells

        return screens(options["track"], Path(request.store), train_cells(plan))(trials)

    outcomes, examinations = carry_out(
        plan, request, registry, options["plugins"], shown, report.observers, options["evaluate"]
    )
    if options["as_json"]:
        extra = {"evaluations": examinations} if options["evaluate"] == "full" else {}
        print_json(document(outcomes, plan) | extra)
    else:
        print_summary(outcomes, plan, request.store)
        print_examinations(examinations)
    return int(exit_code(outcomes))
