"""`wbcbench leaderboard diff`: what moved between two boards."""

from __future__ import annotations

from pathlib import Path

import click

from wbcbench.cli.options import json_option


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@json_option
def command(old: Path, new: Path, as_json: bool) -> None:
    """Show what moved from OLD to NEW, and why: new seeds, new rows, struck-out records, other code.

    Each is a published folder, or a file that `wbcbench leaderboard --format json` wrote.
    """
    from dataclasses import asdict

    from wbcbench.boards.text import clean
    from wbcbench.cli.output import print_json
    from wbcbench.publishing.changes import changes, read_report, title_of

    before, after = read_report(old), read_report(new)
    found = changes(before, after)
    if as_json:
        print_json({"changes": [asdict(c) for c in found]})
        return
    titles = {b.digest: f"{title_of(b)} (key {b.digest})" for b in (*before.boards, *after.boards)}
    heading = None
    for change in found:
        if change.board != heading:
            heading = change.board
            click.echo(clean(titles.get(heading, "All boards")))
        click.echo(f"  {clean(change.row)}: {change.what}")
        for why in change.why:
            click.echo(f"      {clean(why)}")
    if not found:
        click.echo("Nothing moved.")


__all__ = ["command"]
