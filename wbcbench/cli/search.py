"""`wbcbench search`: propose, train, prune; retrain the best with fresh seeds; report, export, list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.choices import choice_options, given
from wbcbench.cli.options import json_option, load, plugin_options, store_option

if TYPE_CHECKING:
    from wbcbench.registry.loading import LoadReport, PluginOptions
    from wbcbench.searches.search import Search

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
Run the same command again: it goes on where it stopped.
"""

_SETTINGS = (
    "trials", "objective", "sampler", "pruner", "budget_seconds", "seed", "winners", "winner_seeds", "name",
)  # fmt: skip

_store = store_option("Where the study is.")


@click.group("search", epilog=EPILOG, invoke_without_command=True)
@choice_options(seeds="The one seed that proposals are trained with; default: 1000.")
@click.option("--trials", type=click.IntRange(1), help="Proposals in all, earlier starts included; default: 20.")
@click.option("--objective", metavar="NAME[,NAME]", help="Validation metrics or costs; default: macro_f1.")
@click.option("--sampler", metavar="NAME", help="tpe (default), nsga2, gp, random, cmaes.")
@click.option("--pruner", metavar="NAME", help="none (default), asha, hyperband, median.")
@click.option(
    "--budget-seconds", type=click.FloatRange(0, min_open=True), help="No proposal after so much training."
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    metavar="NAME=RANGE",
    help="uniform(a,b), log(a,b), int(a,b), choice(a,b), or a value.",
)
@click.option("--show-space", is_flag=True, help="Show what would be searched, and stop.")
@click.option("--seed", type=click.IntRange(0), help="Of the sampler; default: 0.")
@click.option("--each", is_flag=True, help="An equal search for every method, and a table of the winners.")
@click.option("--winners", type=click.IntRange(1), help="How many are retrained; default: 1.")
@click.option("--winner-seeds", metavar="0,1,2", help="Fresh seeds for retraining; default: 0,1,2.")
@click.option("--no-winner", is_flag=True, help="Retrain nothing: the test split stays sealed.")
@click.option("--name", metavar="NAME", help="Of the study; default: a hash of what is searched and how.")
@click.option("--dry-run", is_flag=True, help="Show the space, what is done, what is left, and stop.")
@json_option
@plugin_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Search parameters (and methods) on validation cells; then retrain the best with fresh seeds.

    What can be searched is declared by the components and listed by --show-space. The test split is looked at
    only for retrained winners. A pruned or searched trial never stands on a leaderboard.
    """
    if ctx.invoked_subcommand is not None:
        return
    from wbcbench.searches.search import prepare_searches
    from wbcbench.searches.settings import load_settings
    from wbcbench.spec.load import load_request

    request = load_request(options["config"], given(options), options["sets"])
    flags = {name: options[name] for name in _SETTINGS if options[name] is not None}
    flags |= {"each": True} if options["each"] else {}
    settings, ranges = load_settings(options["config"], flags, options["spaces"])
    registry, report = load(options["plugins"])
    searches = prepare_searches(request, registry, settings, ranges)
    if options["show_space"] or options["dry_run"]:
        _show(searches, options["as_json"], options["dry_run"])
        return
    ctx.exit(
        _run(
            searches,
            report,
            options["plugins"],
            options["as_json"],
            not options["no_winner"],
            settings.each,
            options["track"],
        )
    )


def _show(searches: list[Search], as_json: bool, dry_run: bool) -> None:
    from wbcbench.cli.output import print_json, print_table

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


def _run(
    searches: list[Search],
    report: LoadReport,
    plugins: PluginOptions,
    as_json: bool,
    retrain: bool,
    each: bool,
    track: str | None,
) -> int:
    from wbcbench.cli.output import print_json
    from wbcbench.cli.screens import screens
    from wbcbench.cli.search_summary import document, print_comparison, print_found
    from wbcbench.errors import ExitCode, TrialFailedError
    from wbcbench.scheduling.estimate import train_cells
    from wbcbench.searches.execute import run_search

    found, code = [], ExitCode.OK
    for search in searches:
        if len(searches) > 1:
            click.echo(f"Search {search.folder.id}: {search.spec.title}", err=True)
        try:
            shown = screens(track, search.store.root, train_cells(search.base))
            found.append(run_search(search, shown, report.observers, plugins, retrain))
        except TrialFailedError as error:
            if len(searches) == 1:
                raise
            # One method that cannot be trained must not cost the others their searches.
            click.echo(f"Failed: {search.spec.title}: {error}", err=True)
            code = ExitCode.SOME_FAILED
            continue
        if any(o.status == "failed" for o in found[-1].retrained):
            code = ExitCode.SOME_FAILED
    if as_json:
        print_json({"searches": [document(f) for f in found]})
    else:
        for one in found:
            print_found(one)
        if each:
            print_comparison(found)
    return int(code)


@command.command("report")
@click.argument("study", required=False)
@_store
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder; default: in the study's."
)
@json_option
def report_command(study: str | None, store: Path, output: Path | None, as_json: bool) -> None:
    """Write history, importances, slices and Pareto front of STUDY as HTML and PNG."""
    from wbcbench.cli.output import print_json
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


@command.command("export")
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
    click.echo(f"{count} trials of study {folder.id} written to {target}. Look at them: optuna-dashboard {target}")


@command.command("list")
@_store
@json_option
def list_command(store: Path, as_json: bool) -> None:
    """List the studies in a store."""
    from wbcbench.cli.output import print_json, print_table
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
        click.echo(f"No searches in {store}. `wbcbench search` makes one; `wbcbench search --help` shows how.")
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


__all__ = ["command"]
