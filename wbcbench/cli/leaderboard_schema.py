"""`wbcbench leaderboard schema`: what `--format json` holds."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of `wbcbench leaderboard --format json`."""
    from wbcbench.cli.output import print_json
    from wbcbench.leaderboard.formats.json_document import schema

    print_json(schema())
