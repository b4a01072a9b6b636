"""The verbs under `wbcbench leaderboard` that check, join, compare and publish. Imported when they are used."""

from __future__ import annotations

import importlib

import click

SUBVERBS = {
    "verify": "Judge a pack of records: accept, needs a look, or refuse.",
    "merge": "Join stores of several machines.",
    "diff": "What moved between two boards, and why.",
    "publish": "Write a board's folder under leaderboards/, or check that it is up to date.",
}
"""Subcommand -> short help; the command is `command` in `wbcbench/cli/<subcommand>.py`."""


class PublishingGroup(click.Group):
    """A group that has `SUBVERBS` beside the commands that were added to it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *SUBVERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBVERBS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(f"wbcbench.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(n, c.get_short_help_str()) for n, c in self.commands.items() if not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *SUBVERBS.items()])


__all__ = ["SUBVERBS", "PublishingGroup"]
