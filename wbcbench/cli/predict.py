"""`wbcbench predict`: what a trained network says of cells that it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import json_option, load, plugin_options
from wbcbench.cli.take import record_options

if TYPE_CHECKING:
    from wbcbench.deploy.cells import Source
    from wbcbench.deploy.network import Rebuilt
    from wbcbench.deploy.predict import Answers
    from wbcbench.registry.loading import PluginOptions

SHOWN = 5
EPILOG = """\b
PATH is one of:
  a manifest (.csv) with a column of image paths per modality; label and id optional
  a folder with a manifest.csv, or with a subfolder of images per modality; also in a zip
  an .npz with an array per modality, or laid out as in training
  a folder of images, a zip of them or one image, where the network reads one modality
  what `wbcbench data import` wrote: its folder, or the dataset.yaml in it
  files named or stored as those of the data set of training (imaging_flow, bsccm)

Where the data set of training computes its modalities from other images, as `stains`
does from an RGB image, those images are given instead, and computed from in the same way.
"""


@click.command("predict", epilog=EPILOG)
@record_options
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File: .csv or .parquet.")
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Cells at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--explain", type=(click.IntRange(1), click.Path(path_type=Path)), default=None, metavar="N DIR",
    help="For N of the cells, write where in each modality the network looked (PNG) to a new folder.",
)  # fmt: skip
@click.option(
    "--root", type=click.Path(path_type=Path, exists=True), default=None,
    help="Folder or zip that the paths in a manifest start from; default: the manifest's folder.",
)  # fmt: skip
@json_option
@plugin_options
def command(record: str, store: Path, sets: tuple[str, ...], plugins: PluginOptions, **options: Any) -> None:
    """Classify the cells of every PATH with the network of RECORD: class, probabilities, answers per route.

    Cells may lack a modality where the fusion can do without. Cells that cannot be read get no answer, and the
    reason in the column `error`. Images that are unlike the training cells are named. Where labels are known,
    metrics are printed; cells that the network was trained on flatter them.
    """
    from wbcbench.deploy.cells import Wanted
    from wbcbench.deploy.network import rebuilt
    from wbcbench.deploy.open_cells import open_cells
    from wbcbench.deploy.predict import check_name, classify, table, write
    from wbcbench.errors import UsageError
    from wbcbench.records.find import find_record
    from wbcbench.records.store import Store
    from wbcbench.training.workbench import pick_device

    output, explain = options["output"], options["explain"]
    check_name(output)
    if explain is not None and explain[1].exists():
        raise UsageError(f"Expected a new folder for --explain, but {explain[1]} is there already.")
    registry, _ = load(plugins)
    found = rebuilt(find_record(record, Store(store)), Store(store), registry, sets)
    device = pick_device(options["device"])
    sources = [open_cells(path, Wanted.of(found), options["root"]) for path in options["paths"]]
    answers = [_classify(classify, found, source, device, options["batch"]) for source in sources]
    frame = table(answers, found.task.classes, found.network.modalities)
    write(frame, output)
    if explain is not None:
        from wbcbench.deploy.explain import explain_cells

        count = explain_cells(found, answers, *explain)
        click.echo(f"{explain[1]}: {count} cells explained.", err=True)
    document = _document(found, answers, frame, output)
    if options["as_json"]:
        from wbcbench.cli.output import print_json

        print_json(document)
    else:
        _print(document)


def _classify(classify: Any, found: Rebuilt, source: Source, device: Any, batch: int) -> Answers:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from wbcbench.cli.output import log_console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    console = log_console()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"cells of {source.where}", total=len(source.names))
        answers: Answers = classify(
            found, source, device, batch, lambda done, total: progress.update(task, completed=done)
        )
    return answers


def _document(found: Rebuilt, answers: list[Answers], frame: Any, output: Path) -> dict[str, Any]:
    from wbcbench.deploy.predict import scores_of

    classes = found.task.classes
    scores, labelled, strange = scores_of(answers, classes)
    counts = frame["predicted"].value_counts()
    kinds: dict[str, int] = {}
    for odd in (kind for a in answers for cell in a.odd for kind in cell):
        kinds[odd] = kinds.get(odd, 0) + 1
    return {
        "trial_id": found.record.trial.id,
        "method": found.record.result.label,
        "kd": found.record.result.kd,
        "policies": list(found.record.result.policies),
        "seed": found.record.result.seed,
        "output": str(output),
        "cells": len(frame),
        "errors": {
            "cells": int((frame["error"] != "").sum()),
            "first": [{"cell": str(c), "why": str(w)} for c, w in _broken(frame)],
        },
        "predicted": {c: int(counts.get(c, 0)) for c in classes},
        "missing": int((frame["missing"] != "").sum()),
        "unlike_training": {
            "cells": int((frame["unlike_training"] != "").sum()),
            "kinds": dict(sorted(kinds.items())),
            "statistics_from": found.statistics_from,
        },
        "notes": [note for a in answers for note in a.source.notes],
        "labelled": labelled,
        "other_labels": strange,
        "metrics": None if scores is None else scores.summary,
    }


def _broken(frame: Any) -> list[list[str]]:
    """The first few cells without an answer, and why."""
    found: list[list[str]] = frame.loc[frame["error"] != "", ["cell", "error"]].head(SHOWN).to_numpy().tolist()
    return found


def _print(document: dict[str, Any]) -> None:
    from wbcbench.boards.text import clean
    from wbcbench.cli.output import print_table
    from wbcbench.spec.trial import method_name

    method = method_name(document["method"], document["kd"], document["policies"])
    click.echo(f"Answered by {clean(method)}, seed {document['seed']} (record {document['trial_id']}).")
    click.echo(f"{document['output']}: {document['cells']} cells")
    print_table(["predicted", "cells"], [[clean(c), n] for c, n in document["predicted"].items()])
    if document["missing"]:
        click.echo(f"{document['missing']} cells lack a modality.")
    if document["errors"]["cells"]:
        click.echo(
            f"Warning: {document['errors']['cells']} of {document['cells']} cells could not be read and have no "
            "answer; the column `error` says why:",
            err=True,
        )
        for broken in document["errors"]["first"]:
            click.echo(f"  {clean(broken['cell'])}: {clean(broken['why'])}", err=True)
    unlike = document["unlike_training"]
    if unlike["cells"]:
        kinds = ", ".join(f"{n} {clean(kind)}" for kind, n in unlike["kinds"].items())
        click.echo(
            f"Warning: {unlike['cells']} of {document['cells']} cells are unlike the training cells ({kinds}), "
            f"judged by statistics from {unlike['statistics_from']}. Do not trust their answers without looking.",
            err=True,
        )
    for note in document["notes"]:
        click.echo(f"Note: {clean(note)}", err=True)
    if document["other_labels"]:
        shown = ", ".join(clean(v) for v in document["other_labels"][:8])
        click.echo(f"Note: labels that are none of the classes were not scored: {shown}", err=True)
    if document["metrics"] is not None:
        rows = [[name, "undefined" if v is None else f"{v:.4f}"] for name, v in document["metrics"].items()]
        print_table(["metric", f"over {document['labelled']} labelled cells"], rows)


__all__ = ["command"]
