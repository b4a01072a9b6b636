"""`wbcbench leaderboard merge`: the stores of several machines as one."""

from __future__ import annotations

from pathlib import Path

import click

from wbcbench.cli.options import json_option


@click.command("merge")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", type=click.Path(path_type=Path))
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False), help="The store to fill.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, stores: tuple[Path, ...], into: Path, as_json: bool) -> None:
    """Copy the records of STORE... into one store; every file's digest is checked, nothing is overwritten.

    The same trial twice is one record if both agree. If they do not, it is reported as irreproducible, none of its
    records is copied, and the exit status is 1.
    """
    from dataclasses import asdict

    from wbcbench.cli.output import print_json
    from wbcbench.publishing.merging import merge

    merged = merge(list(stores), into)
    if as_json:
        print_json(asdict(merged))
    else:
        for trial, told in merged.irreproducible.items():
            click.echo(f"irreproducible: {trial} ({told})")
        for reason in merged.refused:
            click.echo(f"refused: {reason}")
        click.echo(
            f"{into}: {len(merged.copied)} records copied, {len(merged.same)} were in several stores and agree, "
            f"{len(merged.irreproducible)} irreproducible, {len(merged.refused)} refused"
        )
    ctx.exit(1 if merged.irreproducible or merged.refused else 0)


__all__ = ["command"]
