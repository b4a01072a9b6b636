"""`wbcbench report`: one record as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcbench.cli.options import load, plugin_options
from wbcbench.cli.take import record_options

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions


@click.command("report")
@record_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File: page.html."
)
@plugin_options
def command(record: str, store: Path, sets: tuple[str, ...], output: Path, plugins: PluginOptions) -> None:
    """Write one HTML page on RECORD that needs no network: equal records give equal bytes.

    Metrics with intervals, confusion, reliability, classes, routes, curves, cost, environment and provenance;
    worst mistakes as pictures where the cells are at hand (--set dataset.path=...); missing modalities and spoilt
    images where the record was examined (wbcbench run --evaluate full).
    """
    from wbcbench.deploy.report import gather, page
    from wbcbench.records.files import atomic_write_text
    from wbcbench.records.find import find_record
    from wbcbench.records.store import Store

    registry, _ = load(plugins)
    at = Store(store)
    material = gather(find_record(record, at), at, registry, sets)
    atomic_write_text(output, page(material))
    click.echo(output)
    if material.mistakes is None:
        click.echo(f"No pictures of mistakes: {material.without}", err=True)


__all__ = ["command"]
