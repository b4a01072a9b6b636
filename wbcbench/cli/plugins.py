"""`wbcbench plugins`: what was found, and what became of it. Always exits 0: it is for finding out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wbcbench.cli.options import json_option, plugin_options
from wbcbench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions


@click.command("plugins")
@json_option
@click.option("--verbose", "-v", is_flag=True, help="Show the traceback of each plugin that failed.")
@plugin_options
def command(as_json: bool, verbose: bool, plugins: PluginOptions) -> None:
    """Show every plugin that was found: loaded, blocked or failed, and why."""
    from wbcbench.registry.loading import load_plugins

    _, report = load_plugins(plugins)
    if as_json:
        rows = [asdict(p) for p in report.plugins]
        for row in rows if not verbose else ():
            del row["traceback"]
        print_json({"plugins": rows, "clashes": report.clashes})
        return
    print_table(
        ["plugin", "version", "status", "components", "origin", "reason"],
        [[p.provider, p.version, p.status, p.components, p.origin, p.reason] for p in report.plugins],
    )
    for skipped in (s for p in report.plugins for s in p.skipped):
        click.echo(f"\nLeft out: {skipped}")
    for clash in report.clashes:
        click.echo(f"\nName clash: {clash}")
    for plugin in report.failed if verbose else ():
        click.echo(f"\n{plugin.provider}:\n{plugin.traceback.rstrip() or plugin.reason}")
