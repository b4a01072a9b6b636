"""`wbcbench export`, `predict`, `report` and `evaluate`: use trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wbcbench.api.defaults import BATCH, DEPLOYED, TOLERANCE
from wbcbench.cli.completion import components, records
from wbcbench.cli.options import json_option, plugins_options, record_options, set_option, store_option
from wbcbench.cli.output import print_json, print_table

EXPORT_EPILOG = """\b
Examples:
  wbcbench export 31678b71 --format onnx -o taken --set dataset.path=cells.npz
  wbcbench export 31678b71 --format onnx --quantize int8 -o taken --set dataset.path=cells.npz
  wbcbench export 'late_prob + logits' --format torch-export -o taken
"""
PREDICT_EPILOG = """\b
PATH is one of:
  a manifest (.csv) with a column of image paths per modality; label and id optional
  a folder with a manifest.csv, or with a subfolder of images per modality; also in a zip
  an .npz with an array per modality, or laid out as in training
  a folder of images, a zip of them or one image, where the network reads one modality
  what `wbcbench data import` wrote: its folder, or the dataset.yaml in it
  files in the format of the training data set (imaging_flow, bsccm)

If the training data set computes its modalities from other images, as `stains` does
from an RGB image, give those images; the modalities are computed in the same way.
"""


@click.command("export", epilog=EXPORT_EPILOG)
@record_options
@click.option(
    "--format", required=True, type=click.Choice(["safetensors", "onnx", "torch-export"]),
    help="Weights and specification, an ONNX graph, or a PyTorch program.",
)  # fmt: skip
@click.option(
    "--quantize", type=click.Choice(["int8", "dynamic", "fp16"]), default=None,
    help="Of ONNX: 8 bits (calibrated on training cells), 8-bit weights, half precision.",
)  # fmt: skip
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new folder."
)
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=TOLERANCE, show_default=True,
    help="Largest difference of a probability between file and trained network.",
)  # fmt: skip
@json_option
@plugins_options
def export(as_json: bool, **given: Any) -> None:
    """Write the network of RECORD with its preprocessing, a model card and a description of its inputs.

    RECORD is a trial's id, the beginning of one, a record's folder, or a method's name as on a leaderboard.

    The exported file is run and compared with the trained network, on validation cells if they are available
    (--set dataset.path=...), else on synthetic ones; if they differ, nothing is written, exit 1. A quantised
    file is then compared with the float one: classes, macro-F1, size.
    """
    from wbcbench.api.deploying import ExportRequest

    done = ExportRequest(**given).export()
    if as_json:
        document = {"trial_id": done.trial_id, "format": done.format, "folder": str(done.folder)}
        print_json(document | {"check": done.agreement.document()})
        return
    click.echo(f"{done.folder}: {', '.join(done.files)}")
    click.echo(done.agreement.sentence())
    if done.agreement.quantised is not None:
        click.echo(done.agreement.quantised.sentence())
        if advice := done.agreement.quantised.advice():
            click.echo(f"Warning: {advice}", err=True)
    if done.without:
        click.echo(f"The cells it was trained on were not available: {done.without}", err=True)


@click.command("predict", epilog=PREDICT_EPILOG)
@record_options
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File: .csv or .parquet.")
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True, help="Cells at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--explain", type=(click.IntRange(1), click.Path(path_type=Path)), default=None, metavar="N DIR",
    help="For N of the cells, write PNG maps of where in each modality the network looked, to a new folder.",
)  # fmt: skip
@click.option(
    "--root", type=click.Path(path_type=Path, exists=True), default=None,
    help="Folder or zip that a manifest's paths are relative to; default: the manifest's folder.",
)  # fmt: skip
@json_option
@plugins_options
def predict(as_json: bool, **given: Any) -> None:
    """Classify the cells of every PATH with the network of RECORD: class and probabilities, also per route.

    Cells may lack a modality if the fusion supports that. Cells that cannot be read get no prediction, and the
    reason in the column `error`. Cells that are unlike the training cells, and cells that the network was trained
    on, are reported. If labels are known, metrics are printed.
    """
    from wbcbench.api.deploying import PredictRequest

    done = PredictRequest(**given).predict()
    if given["explain"] is not None:
        click.echo(f"{given['explain'][1]}: {done.explained} cells explained.", err=True)
    facts = done.facts
    if as_json:
        print_json({**facts, "output": str(given["output"])})
        return
    from wbcbench.boards.text import clean
    from wbcbench.spec.trial import method_name

    method = method_name(facts["method"], facts["kd"], facts["policies"])
    click.echo(f"Network: {clean(method)}, seed {facts['seed']} (record {facts['trial_id']}).")
    click.echo(f"{given['output']}: {facts['cells']} cells")
    print_table(["predicted", "cells"], [[clean(c), n] for c, n in facts["predicted"].items()])
    if facts["missing"]:
        click.echo(f"{facts['missing']} cells lack a modality.")
    for line in done.warnings():
        click.echo(line if line.startswith(" ") else f"Warning: {line}", err=True)
    for line in done.remarks():
        click.echo(f"Note: {line}", err=True)
    if facts["metrics"] is not None:
        rows = [[name, "undefined" if v is None else f"{v:.4f}"] for name, v in facts["metrics"].items()]
        print_table(["metric", f"over {facts['labelled']} labelled cells"], rows)


EVALUATE_EPILOG = """\b
Examples:
  wbcbench evaluate --dataset other_lab/dataset.yaml
  wbcbench evaluate --deployed onnx --deployed onnx-int8 --set dataset.path=cells.npz
  wbcbench evaluate 'early + logits' concat --dataset npz --set dataset.path=other.npz --name 'hospital B'
"""


@click.command("evaluate", epilog=EVALUATE_EPILOG)
@click.argument("records", metavar="[RECORD]...", nargs=-1, shell_complete=records)
@click.option(
    "--dataset", default=None, metavar="NAME|PATH", shell_complete=components("dataset"),
    help="Labelled cells: a data set, what `data import` wrote, an .npz, a manifest (.csv).",
)  # fmt: skip
@click.option(
    "--deployed", multiple=True, type=click.Choice(DEPLOYED),
    help="Instead: the exported file, on the record's test cells; repeatable.",
)  # fmt: skip
@set_option("Parameter of the data set: --set dataset.path=other.npz")
@click.option("--name", metavar="TEXT", help="What boards call these cells; default: the data set or the file.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Every ranked row of this board; repeatable.")
@store_option("Where records are kept, and these results.")
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True, help="Cells at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
@plugins_options
@click.pass_context
def evaluate(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Evaluate finished networks on other labelled cells, or as they would be deployed; boards show the results.

    RECORD is a trial's id, a record's folder, or a method's name, which gives all its seeds and folds; without
    one, every ranked row of the store's boards is evaluated.

    Classes are matched by name. Cells of other classes, and cells that a network was trained on, are left out and
    counted. Results are kept in the store, are never used for selection, and are not computed twice.

    --deployed exports each network and runs the file on the test cells of its record with one thread: metrics,
    calibration, bytes, milliseconds for one cell and for 64.
    """
    from wbcbench.api.evaluating import EvaluateRequest
    from wbcbench.errors import ExitCode

    done = EvaluateRequest(**given).evaluate(progress=not as_json)
    if as_json:
        print_json({"evaluations": done.rows(), "failed": done.failed, "notes": done.notes()})
    else:
        from wbcbench.boards.text import clean

        rows = done.rows()
        names = [n for n in rows[0] if n != "set" and any(row[n] is not None for row in rows)]
        shown = [
            [f"{v:.4f}" if isinstance(v, float) else clean(str(v)) for v in (r[n] for n in names)] for r in rows
        ]
        print_table(names, shown)
        for line in done.notes():
            click.echo(line, err=True)
    ctx.exit(ExitCode.SOME_FAILED if done.failed else ExitCode.OK)


@click.command("report")
@record_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File: page.html."
)
@plugins_options
def report(**given: Any) -> None:
    """Write a self-contained HTML page about RECORD: equal records give equal bytes.

    Metrics with intervals, confusion, reliability, classes, routes, curves, cost, environment and provenance;
    worst mistakes as pictures if the cells are available (--set dataset.path=...); missing modalities and
    corrupted images if the record was evaluated in full (wbcbench run --evaluate full).
    """
    from wbcbench.api.deploying import ReportRequest

    done = ReportRequest(**given).write()
    click.echo(done.path)
    for line in done.notes():
        click.echo(line, err=True)


__all__ = ["evaluate", "export", "predict", "report"]
