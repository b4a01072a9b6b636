"""`wbcbench run`: plan, train what is missing, show students beside their teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wbcbench.cli.options import executor_options, json_option, load, plugin_options

if TYPE_CHECKING:
    from wbcbench.plugins import LoadReport, PluginOptions
    from wbcbench.registry import Registry
    from wbcbench.scheduling.plan import Plan
    from wbcbench.spec.request import Request

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = """\b
Examples:
  wbcbench run --fusion independent --kd logits
  wbcbench run --fusion single,early,late,independent --seeds 0,1,2
  wbcbench run --fusion independent:rho=0.2 --kd none,logits:temperature=2
  wbcbench run --dataset folder --set dataset.path=cells/manifest.csv --dry-run
  wbcbench run --config configs/jurkat_label_free.yaml
  wbcbench run --config configs/matrix_study.yaml --executor ray --jobs 8 --gpus-per-trial 0.25
"""

# flag -> key of the request; the flag wins over the config file, --set wins over both
_FLAGS = {
    "dataset": "dataset", "modalities": "modalities", "teacher_modalities": "teacher_modalities",
    "fusion": "fusion", "kd": "kd", "routing": "routing", "policy": "policy", "backbone": "backbone",
    "teacher": "teacher.backbone", "epochs": "epochs", "seeds": "seeds", "image_size": "image_size",
    "device": "device", "store": "store",
    "executor": "executor", "jobs": "jobs", "cpus_per_trial": "cpus_per_trial", "gpus_per_trial": "gpus_per_trial",
    "ray_address": "ray_address",
}  # fmt: skip


def _option(name: str, **kwargs: Any) -> Callable[[F], F]:
    variable = "WBCBENCH_" + name.lstrip("-").upper().replace("-", "_")
    return click.option(name, envvar=variable, show_envvar=False, **kwargs)


@click.command("run", epilog=EPILOG)
@_option("--dataset", metavar="NAME", help="Data set: synthetic (default), folder, npz, stains, ...")
@_option("--modalities", metavar="A,B", help="What the student reads; default: all.")
@_option("--teacher-modalities", metavar="A,B", help="What teachers read; may be more than the student does.")
@_option("--fusion", metavar="NAME[,NAME]", help="Fusion schemes; default: independent.")
@_option("--kd", metavar="NAME[,NAME]", help="Distillers, or none (default).")
@_option("--routing", metavar="NAME", help="Who teaches whom; default: matched.")
@_option("--policy", metavar="NAME[,NAME]", help="Training policies, applied together in this order.")
@_option("--backbone", metavar="NAME[,NAME]", help="Student backbones: cellnet (default) or any timm model.")
@_option("--teacher", metavar="NAME", help="Teacher backbone; default: cellnet:width=32.")
@_option("--epochs", type=click.IntRange(1), help="Passes over the training cells.")
@_option("--seeds", metavar="0,1,2", help="One trial per seed; default: 0.")
@_option("--image-size", type=click.IntRange(8, 1024), help="Side in pixels; default: the data set's own.")
@_option("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps.")
@_option("--store", metavar="DIR", help="Where records are kept; default: wbcbench-store.")
@executor_options
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML file; flags win over it.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any parameter: --set training.lr=1e-3")
@click.option(
    "--evaluate",
    type=click.Choice(["standard", "full"]),
    default="standard",
    help="full: also every subset of modalities, corruptions, reliance, diversity (evaluations/ID.json).",
)
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

    flags = {key: options[name] for name, key in _FLAGS.items() if options[name] is not None}
    request = load_request(options["config"], flags, options["sets"])
    registry, report = load(options["plugins"])
    plan = make_plan(request, registry)
    if options["dry_run"]:
        _dry_run(plan, request, options["as_json"])
        return
    full = options["evaluate"] == "full"
    ctx.exit(_run(plan, request, registry, report, options["plugins"], options["as_json"], full))


def _dry_run(plan: Plan, request: Request, as_json: bool) -> None:
    from wbcbench.cli.output import print_json, print_table
    from wbcbench.records.store import Store
    from wbcbench.scheduling.estimate import estimate

    rows = estimate(plan, Store(Path(request.store)))
    if as_json:
        print_json({"trials": rows, "notes": plan.notes, "store": request.store})
        return
    columns = ["role", "method", "kd", "backbone", "seed", "trial_id", "state", "cell_views", "seconds"]
    shown = [{**r, "state": "done" if r["done"] else "to run", "seconds": _about(r)} for r in rows]
    print_table(columns, [[str(r[c]) for c in columns] for r in shown])
    left = [r for r in rows if not r["done"]]
    known = [r["estimated_seconds"] for r in left if r["estimated_seconds"] is not None]
    cost = (
        f"about {sum(known):.0f} s for {len(known)} of them, by earlier runs in this store"
        if known
        else ("no earlier run in this store to judge their time by")
    )
    click.echo(f"{len(rows) - len(left)} done, {len(left)} to run" + (f": {cost}." if left else "."))


def _about(row: dict[str, Any]) -> str:
    seconds = row["estimated_seconds"]
    return "" if row["done"] else "?" if seconds is None else f"~{seconds:.0f}"


def _run(
    plan: Plan,
    request: Request,
    registry: Registry,
    report: LoadReport,
    plugins: PluginOptions,
    as_json: bool,
    full: bool,
) -> int:
    from wbcbench.cli.output import print_json
    from wbcbench.cli.summary import document, print_examinations, print_summary
    from wbcbench.records.store import Store
    from wbcbench.scheduling.outcome import all_cached, exit_code, in_order

    store = Store(Path(request.store))
    outcomes = all_cached(plan, store)
    examinations: list[dict[str, Any]] = []
    if outcomes is None or full:
        from wbcbench.cli.progress import RunDisplay
        from wbcbench.scheduling.estimate import train_cells
        from wbcbench.scheduling.executors import choose, make
        from wbcbench.scheduling.source import PlanSource

        with RunDisplay(len(plan.trials), train_cells=train_cells(plan)) as display:
            if outcomes is None:
                name = choose(request, plan, store)
                executor = make(name, request, plan, registry, plugins, display.decoding)
                outcomes = in_order(plan, executor.run(PlanSource(plan.trials), display, report.observers))
            if full:
                from wbcbench.scheduling.inline import prepare
                from wbcbench.training.examine import examined

                bench = prepare(plan, request, registry, display.decoding)
                students = [o for o in outcomes if o.record is not None and o.planned.role == "student"]
                examinations = [examined(o.record, bench) for o in students if o.record is not None]
    if as_json:
        extra = {"evaluations": examinations} if full else {}
        print_json(document(outcomes, plan) | extra)
    else:
        print_summary(outcomes, plan, request.store)
        print_examinations(examinations)
    return int(exit_code(outcomes))
