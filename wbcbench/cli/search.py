"""`wbcbench search`: propose, train, prune; retrain the best with fresh seeds; report, export, list."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import choice_options, json_option, plugins_options, store_option
from wbcbench.cli.output import as_typed, print_json, print_table, store_flag

if TYPE_CHECKING:
    from wbcbench.searches.files import Winner
    from wbcbench.searches.search import Found, Search

SHOWN = 5
"""Number of proposals in the table."""
_VAL = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"})
EPILOG = """\b
Examples:
  wbcbench search --fusion independent --kd dkd --trials 50
  wbcbench search --fusion independent --kd logits --space 'distiller.temperature=log(1,20)' --pruner asha
  wbcbench search --fusion early,independent --kd none,dkd          the method is searched too
  wbcbench search --each --fusion early,late,independent            an equal search for each
  wbcbench search --objective macro_f1,macs --sampler nsga2         the Pareto set
  wbcbench search --fusion independent --kd dkd --show-space
  wbcbench search report STUDY -o report/                           history, importances, slices, Pareto
  wbcbench search export STUDY --to sqlite:///study.db              for optuna-dashboard
Run the same command again to resume.
"""

_store = store_option("Where the study is.")


@click.group("search", epilog=EPILOG, invoke_without_command=True)
@choice_options(seeds="The one seed that proposals are trained with; default: 1000.")
@click.option("--trials", type=click.IntRange(1), help="Total of proposals, earlier starts included; default: 20.")
@click.option("--objective", metavar="NAME[,NAME]", help="Validation metrics or costs; default: macro_f1.")
@click.option("--sampler", metavar="NAME", help="tpe (default), nsga2, gp, random, cmaes.")
@click.option("--pruner", metavar="NAME", help="none (default), asha, hyperband, median.")
@click.option(
    "--budget-seconds", type=click.FloatRange(0, min_open=True), help="No new proposal after this much training."
)
@click.option(
    "--space",
    "space",
    multiple=True,
    metavar="NAME=RANGE",
    help="uniform(a,b), log(a,b), int(a,b), choice(a,b), or a value.",
)
@click.option("--show-space", is_flag=True, help="Show the search space, and stop.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the sampler; default: 0.")
@click.option(
    "--each", is_flag=True, default=None, help="An equal search for every method, and a table of the winners."
)
@click.option("--winners", type=click.IntRange(1), help="How many winners are retrained; default: 1.")
@click.option("--winner-seeds", metavar="0,1,2", help="Fresh seeds for retraining; default: 0,1,2.")
@click.option("--no-winner", is_flag=True, help="Retrain nothing: the test split stays sealed.")
@click.option("--name", metavar="NAME", help="Name of the study; default: a hash of the search's settings.")
@click.option("--dry-run", is_flag=True, help="Show the space, what is done, what is left, and stop.")
@json_option
@plugins_options
@click.pass_context
def search(ctx: click.Context, /, **options: Any) -> None:
    """Search parameters (and methods) on validation cells; then retrain the best with fresh seeds.

    Components declare what can be searched; --show-space lists it. The test split is used only for retrained
    winners. A pruned or searched trial is never on a leaderboard.
    """
    if ctx.invoked_subcommand is not None:
        return
    from wbcbench.api.searching import SearchRequest

    show, dry_run, as_json = (options.pop(name) for name in ("show_space", "dry_run", "as_json"))
    planned = SearchRequest(retrain=not options.pop("no_winner"), **options).plan()
    if show or dry_run:
        _show(planned.searches, as_json, dry_run)
        return
    from wbcbench.errors import ExitCode

    done = planned.run(say=lambda line: click.echo(line, err=True))
    if as_json:
        print_json({"searches": [_document(f) for f in done.found]})
    else:
        for one in done.found:
            _print_found(one)
        if any(one.settings.each for one in planned.searches):
            _print_comparison(done.found)
    ctx.exit(ExitCode.SOME_FAILED if done.failed or done.failures else ExitCode.OK)


def _show(searches: list[Search], as_json: bool, dry_run: bool) -> None:
    documents = []
    for search in searches:
        document: dict[str, Any] = {
            "study": search.folder.id, "title": search.spec.title, "space": search.space.rows(),
        }  # fmt: skip
        if dry_run:
            made = len(search.folder.proposals())
            teachers = [p.trial.id for p in search.base.trials if p.role == "teacher"]
            document |= {
                "proposed": made,
                "left": max(0, search.settings.trials - made),
                "teachers": len(teachers),
                "teachers_to_train": sum(not search.store.has(t) for t in teachers),
            }
        documents.append(document)
    if as_json:
        print_json({"searches": documents})
        return
    for document in documents:
        click.echo(f"Study {document['study']}: {document['title']}")
        rows = [
            [r["name"], r["range"], "; ".join(f"{k} is {' or '.join(v)}" for k, v in r["when"].items())]
            for r in document["space"]
        ]
        print_table(["parameter", "range", "only when"], rows)
        if dry_run:
            click.echo(
                f"{document['proposed']} proposed, {document['left']} to go; {document['teachers_to_train']} of "
                f"{document['teachers']} teachers to train."
            )
        click.echo()


def _document(found: Found) -> dict[str, Any]:
    """The machine-readable result of one search."""
    from wbcbench.searches.search import budget, proposal_of, ranking

    study = found.study
    names = study.spec.objective.names
    return {
        "study": found.search.folder.id,
        "title": study.spec.title,
        "path": as_typed(found.search.folder.path, found.search.request),
        "budget": budget(study).model_dump(mode="json"),
        "best": [
            {
                "number": t.number,
                "trial_id": proposal_of(study, t).trial_id,
                "values": dict(zip(names, t.values, strict=True)),
                "params": t.params,
            }
            for t in ranking(study)
        ],
        "winners": [{**w.model_dump(mode="json"), "test": _test(found, w)} for w in found.winners],
        "notes": found.search.base.notes,
    }


def _print_found(found: Found) -> None:
    """Print the best proposals by validation, the search's cost, and the test scores of retrained winners."""
    from wbcbench.searches.search import budget, ranking

    study, spent = found.study, budget(found.study)
    best = ranking(study)
    what = "Pareto set" if study.spec.objective.several else "best by validation"
    click.echo(f"\nStudy {spent.study}: {study.spec.title} ({what})")
    names = list(study.spec.objective.names)
    rows = [
        [t.number, *(f"{v:.4g}" for v in t.values), ", ".join(f"{k}={_short(v)}" for k, v in t.params.items())]
        for t in (best if study.spec.objective.several else best[:SHOWN])
    ]
    print_table(["proposal", *(f"val {n}" if n in _VAL else n for n in names), "parameters"], rows)
    parts = [f"{spent.complete} finished", f"{spent.pruned} pruned", f"{spent.failed} failed"]
    click.echo(f"{spent.trials} proposals: {', '.join(parts)}; {spent.train_seconds:.0f} s of training.")
    for winner in found.winners:
        click.echo(
            f"Winner: proposal {winner.number}, retrained with seeds {_seeds(winner)}; "
            f"test macro-F1 {_scores(found, winner)}"
        )
    for outcome in found.retrained:
        if outcome.status == "failed":
            click.echo(f"Failed to retrain, seed {outcome.planned.trial.seed}: {outcome.error.rstrip()}", err=True)
    where = store_flag(found.search.request.store)
    click.echo(f"Next: wbcbench search report {spent.study}{where}")
    click.echo(f"      wbcbench leaderboard{where}")


def _print_comparison(found: list[Found]) -> None:
    """Print one row per method: its winner, and the (equal) budget of its search."""
    from wbcbench.searches.search import budget

    rows = []
    for one in found:
        spent = budget(one.study)
        for winner in one.winners:
            rows.append(
                [
                    one.study.spec.title, ", ".join(f"{v:.4g}" for v in winner.values), _scores(one, winner),
                    spent.trials, f"{spent.train_seconds:.0f} s", spent.study,
                ]
            )  # fmt: skip
    click.echo("\nEach method's own search, winners retrained with fresh seeds:")
    print_table(["method", "val objective", "test macro-F1", "proposals", "trained", "study"], rows)


def _test(found: Found, winner: Winner) -> dict[str, list[float]]:
    records = {o.planned.trial.id: o.record for o in found.retrained}
    scores: dict[str, list[float]] = {}
    for trial_id in winner.trial_ids:
        record = records[trial_id]
        assert record is not None  # or it would be no winner
        for name, value in record.result.metrics["test"].items():
            if value is not None:
                scores.setdefault(name, []).append(value)
    return scores


def _scores(found: Found, winner: Winner) -> str:
    values = _test(found, winner)["macro_f1"]
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _seeds(winner: Winner) -> str:
    return ", ".join(map(str, winner.seeds))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@search.command("report")
@click.argument("study", required=False)
@_store
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder for a page and pictures, or a file .html for the page alone; default: a folder in the study's.",
)  # fmt: skip
@json_option
def report_command(study: str | None, store: Path, output: Path | None, as_json: bool) -> None:
    """Write a page of STUDY: proposals, the winner's test result, history, importances, slices, Pareto front.

    A folder gets the plots as PNG, too.
    """
    from wbcbench.records.store import Store
    from wbcbench.searches.files import find_study
    from wbcbench.searches.report import write_report

    folder = find_study(Store(store), study)
    written = write_report(folder, Store(store), output or folder.path / "report")
    if as_json:
        print_json({"study": folder.id, "files": [str(p) for p in written]})
    else:
        for path in written:
            click.echo(path)


@search.command("export")
@click.argument("study", required=False)
@_store
@click.option("--to", "target", required=True, metavar="FILE|URL", help="journal.log, or sqlite:///study.db")
def export_command(study: str | None, store: Path, target: str) -> None:
    """Copy STUDY to an Optuna journal file or database, which optuna-dashboard opens."""
    from wbcbench.records.store import Store
    from wbcbench.searches.files import find_study
    from wbcbench.searches.report import export

    folder = find_study(Store(store), study)
    count = export(folder, Store(store), target)
    click.echo(f"{count} trials of study {folder.id} written to {target}. View them: optuna-dashboard {target}")


@search.command("list")
@_store
@json_option
def list_command(store: Path, as_json: bool) -> None:
    """List the studies in a store."""
    from wbcbench.records.store import Store
    from wbcbench.searches.report import overview

    rows, damaged = overview(Store(store))
    for study, reason in damaged.items():
        click.echo(f"refused: study {study}: {reason}", err=True)
    if as_json:
        print_json({"searches": rows, "damaged": damaged})
    elif damaged and not rows:
        click.echo(f"No search in {store} can be read.")
    elif not rows:
        click.echo(f"No searches in {store}. `wbcbench search` makes one; see `wbcbench search --help`.")
    else:
        columns = [
            "study",
            "title",
            "objective",
            "sampler",
            "pruner",
            "trials",
            "complete",
            "pruned",
            "failed",
            "best",
        ]
        print_table(columns, [[r[c] for c in columns] for r in rows])


__all__ = ["search"]
