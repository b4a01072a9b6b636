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

    The same trial twice is one record if both agree. If they do not, it is reported as irreproducible (exit status
    1), and all of its records are kept in INTO/irreproducible/TRIAL/DIGEST, where no board counts them. To settle
    one, move the right DIGEST to INTO/records/TRIAL and delete INTO/irreproducible/TRIAL.
    """
    from dataclasses import asdict

    from wbcbench.cli.output import print_json
    from wbcbench.publishing.merging import ASIDE, merge

    merged = merge(list(stores), into)
    if as_json:
        print_json(asdict(merged))
        ctx.exit(int(not merged.fine))
    for trial, told in merged.irreproducible.items():
        click.echo(f"irreproducible: {trial} ({told})")
    for reason in merged.refused:
        click.echo(f"refused: {reason}")
    for trial, teachers in merged.without_teacher.items():
        click.echo(f"without its teacher: {trial} (needs {', '.join(teachers)})")
    counts = f"{len(merged.copied)} records copied, {len(merged.same)} were in several stores and agree"
    if not merged.fine:
        counts += (
            f", {len(merged.irreproducible)} irreproducible, {len(merged.refused)} refused, "
            f"{len(merged.without_teacher)} without a teacher"
        )
    click.echo(f"{into}: {counts}")
    if merged.irreproducible:
        click.echo(
            f"Irreproducible records are kept in {into / ASIDE}, uncounted; --help says how to settle them."
        )
    ctx.exit(int(not merged.fine))


__all__ = ["command"]
