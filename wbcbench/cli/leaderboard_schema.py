"""`wbcbench leaderboard schema`: what `--format json` holds."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of `wbcbench leaderboard --format json`."""
    from wbcbench.boards.formats.json_document import schema
    from wbcbench.cli.output import print_json

    print_json(schema())
