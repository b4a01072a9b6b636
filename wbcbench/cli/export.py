"""`wbcbench export`: a trained network as files that others can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.options import json_option, load, plugin_options
from wbcbench.cli.take import record_options

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions

EPILOG = """\b
Examples:
  wbcbench export 31678b71 --format onnx -o taken --set dataset.path=cells.npz
  wbcbench export 'late_prob + logits' --format torch-export -o taken
"""


@click.command("export", epilog=EPILOG)
@record_options
@click.option(
    "--format", "format_name", required=True, type=click.Choice(["safetensors", "onnx", "torch-export"]),
    help="Weights and specification, an ONNX graph, or a PyTorch program.",
)  # fmt: skip
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new folder."
)
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=1e-4, show_default=True,
    help="Largest difference of a probability between file and trained network.",
)  # fmt: skip
@json_option
@plugin_options
def command(
    record: str,
    store: Path,
    sets: tuple[str, ...],
    format_name: str,
    output: Path,
    tolerance: float,
    as_json: bool,
    plugins: PluginOptions,
) -> None:
    """Write the network of RECORD with its preprocessing, a model card and a description of its inputs.

    RECORD is a trial's id, the beginning of one, a record's folder, or a method's name as on a leaderboard.

    What was written is run and compared with the trained network, on validation cells if they are at hand
    (--set dataset.path=...), else on made-up ones; if they differ nothing is left, exit 1.
    """
    from wbcbench.deploy.export import export
    from wbcbench.deploy.network import rebuilt
    from wbcbench.records.find import find_record
    from wbcbench.records.store import Store

    registry, _ = load(plugins)
    at = Store(store)
    found = rebuilt(find_record(record, at), at, registry, sets)
    agreement = export(found, format_name, output, store=at, tolerance=tolerance)
    if as_json:
        from wbcbench.cli.output import print_json

        print_json(_document(found.record.trial.id, format_name, output, agreement))
        return
    click.echo(f"{output}: {', '.join(sorted(p.name for p in output.iterdir()))}")
    click.echo(agreement.sentence())
    if found.bench is None:
        click.echo(f"The cells it was trained on were not at hand: {found.without}", err=True)


def _document(trial_id: str, format_name: str, output: Path, agreement: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {"trial_id": trial_id, "format": format_name, "folder": str(output), "check": asdict(agreement)}


__all__ = ["command"]
