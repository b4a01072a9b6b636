"""`wbcbench doctor`: diagnose the installation and suggest fixes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcbench.cli.options import json_option, plugins_options, store_option

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@click.command("doctor")
@store_option("Store to check.")
@click.option("--quick", is_flag=True, help="Do not check the digests of the store's files.")
@json_option
@plugins_options
@click.pass_context
def doctor(ctx: click.Context, store: Path, quick: bool, as_json: bool, plugins: PluginOptions) -> None:
    """Diagnose versions, devices, plugins, store and disk, and suggest fixes.

    Changes nothing. Exit code 1 if there is a problem.
    """
    from wbcbench.cli.output import print_json
    from wbcbench.doctor import examine

    if not quick:
        _announce(store)
    found = examine(store, plugins, digests=not quick)
    problems = sum(f.state == "problem" for f in found)
    if as_json:
        print_json({"problems": problems, "findings": [f.as_dict() for f in found]})
    else:
        for finding in found:
            click.echo(f"{_MARKS[finding.state]:8} {finding.about}: {finding.text}")
            if finding.fix:
                click.echo(
                    f"{'':8}   {'to fix it' if finding.state == 'problem' else 'if need be'}: {finding.fix}"
                )
        click.echo("No problems." if not problems else f"{problems} problem{'s' * (problems > 1)}.")
    ctx.exit(int(problems > 0))


def _announce(store: Path) -> None:
    """Report the expected time, if it is long: about 2 ms a record and 2 s a GiB."""
    files = [path.stat().st_size for path in store.glob("records/*/*") if path.is_file()]
    gib = sum(files) / 2**30
    seconds = len(files) / 3000 + 2 * gib
    if seconds > 5:
        text = f"Checking digests of {len(files)} files, {gib:.1f} GiB: about {seconds:.0f} s. --quick skips this."
        click.echo(text, err=True)


__all__ = ["doctor"]
